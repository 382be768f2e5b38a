package runtime

import (
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// The caller and the stage talk over a stream socket in frames: one byte of
// kind, four bytes of length, the payload. Descriptors travel with the first
// byte.
const (
	frameConfig   = 'C' // -> stage: descriptor table, then Stage as JSON
	frameExec     = 'X' // -> stage: execve now
	frameHooks    = 'H' // <- stage: everything is mounted; run the hooks of the host's side
	frameListener = 'L' // <- stage: seccomp listener, as descriptor
	frameReady    = 'R' // <- stage: waits for frameExec; payload readyReply, maybe the console
	frameError    = 'E' // <- stage: payload: code, message
)

const maxFrame = 16 << 20

func sendFrame(sock int, kind byte, payload []byte, fds ...int) error {
	head := make([]byte, 5, 5+len(payload))
	head[0] = kind
	binary.LittleEndian.PutUint32(head[1:], uint32(len(payload)))
	buf := append(head, payload...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for len(buf) > 0 {
		n, err := unix.SendmsgN(sock, buf, oob, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		buf, oob = buf[n:], nil
	}
	return nil
}

// recvFrame returns io.EOF when the other side closed between frames.
func recvFrame(sock int) (kind byte, payload []byte, fds []int, err error) {
	var head [5]byte
	var oob [64]byte
	n, oobn := 0, 0
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, head[:], oob[:], unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err == unix.ECONNRESET {
		err = io.EOF
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return 0, nil, nil, err
	}
	if oobn > 0 {
		fds = parseRights(oob[:oobn])
	}
	if err := readFull(sock, head[n:]); err != nil {
		return 0, nil, fds, err
	}
	size := binary.LittleEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fds, fmt.Errorf("frame of %d bytes", size)
	}
	payload = make([]byte, size)
	return head[0], payload, fds, readFull(sock, payload)
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b = b[n:]
		}
	}
	return nil
}

func parseRights(oob []byte) []int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var all []int
	for i := range msgs {
		if fds, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			all = append(all, fds...)
		}
	}
	return all
}
