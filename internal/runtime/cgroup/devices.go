package cgroup

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// device is one rule: -1 is any number.
type device struct {
	kind         byte // 'a', 'b', 'c'
	major, minor int64
	access       string
	allow        bool
}

// always are the devices that every container may use: those of the spec's
// default list, terminals, and making nodes of any kind.
var always = []device{
	{'c', -1, -1, "m", true}, {'b', -1, -1, "m", true},
	{'c', 1, 3, "rwm", true}, {'c', 1, 8, "rwm", true}, {'c', 1, 7, "rwm", true}, {'c', 5, 0, "rwm", true},
	{'c', 1, 5, "rwm", true}, {'c', 1, 9, "rwm", true}, {'c', 136, -1, "rwm", true}, {'c', 5, 2, "rwm", true},
}

// rules returns the rules in order, after an implied "deny all".
func deviceRules(list []specs.LinuxDeviceCgroup) (rules []device, all bool, err error) {
	for _, r := range list {
		d := device{kind: 'a', major: -1, minor: -1, access: r.Access, allow: r.Allow}
		if r.Type != "" {
			d.kind = r.Type[0]
		}
		if len(r.Type) > 1 || !strings.ContainsRune("abcu", rune(d.kind)) || strings.Trim(r.Access, "rwm") != "" {
			return nil, false, fmt.Errorf("device rule %+v: type a, b or c and access of r, w, m: %w", r, errdefs.ErrInvalidArgument)
		}
		if d.kind == 'u' {
			d.kind = 'c'
		}
		if r.Major != nil {
			d.major = *r.Major
		}
		if r.Minor != nil {
			d.minor = *r.Minor
		}
		if d.access == "" {
			d.access = "rwm"
		}
		if d.everything() { // what came before does not count any more
			rules, all = nil, d.allow
			continue
		}
		rules = append(rules, d)
	}
	if !all {
		rules = append(rules, always...)
	}
	return rules, all, nil
}

func (d *device) everything() bool {
	return d.kind == 'a' && d.major < 0 && d.minor < 0 && d.mask() == 7
}

func (d *device) mask() (m int32) {
	for _, c := range d.access {
		switch c {
		case 'm':
			m |= 1
		case 'r':
			m |= 2
		case 'w':
			m |= 4
		}
	}
	return m
}

func (d *device) line() string {
	n := func(v int64) string {
		if v < 0 {
			return "*"
		}
		return num(v)
	}
	return fmt.Sprintf("%c %s:%s %s", d.kind, n(d.major), n(d.minor), d.access)
}

func (p *planner) devices(r *specs.LinuxResources) error {
	rules, all, err := deviceRules(r.Devices)
	if err != nil {
		return err
	}
	if _, ok := p.l.V1["devices"]; ok {
		if !all {
			p.write1("devices", "devices.deny", "a", "device rules", true)
		}
		for i := range rules {
			file := "devices.deny"
			if rules[i].allow {
				file = "devices.allow"
			}
			p.write1("devices", file, rules[i].line(), "device rules", true)
		}
		return nil
	}
	if p.l.V2 == "" {
		p.warn("this machine has no device cgroup: access to devices is only limited by what nodes there are")
		return nil
	}
	if !all || len(rules) > 0 {
		p.program = deviceProgram(rules, all)
	}
	return nil
}

// deviceProgram writes eBPF for BPF_PROG_TYPE_CGROUP_DEVICE: the last rule
// that matches decides, so they are tried from the last to the first. The
// context (struct bpf_cgroup_dev_ctx) is access_type, major, minor.
func deviceProgram(rules []device, def bool) []byte {
	var b []byte
	op := func(code byte, dst, src byte, off int16, imm int32) {
		b = append(b, code, src<<4|dst)
		b = binary.NativeEndian.AppendUint16(b, uint16(off))
		b = binary.NativeEndian.AppendUint32(b, uint32(imm))
	}
	exit := func(allow bool) {
		v := int32(0)
		if allow {
			v = 1
		}
		op(0xb7, 0, 0, 0, v) // r0 = v
		op(0x95, 0, 0, 0, 0) // exit
	}
	op(0x61, 2, 1, 0, 0)      // r2 = access_type
	op(0xbc, 3, 2, 0, 0)      // w3 = w2
	op(0x54, 2, 0, 0, 0xffff) // w2 &= 0xffff: kind
	op(0x74, 3, 0, 0, 16)     // w3 >>= 16: access
	op(0x61, 4, 1, 4, 0)      // r4 = major
	op(0x61, 5, 1, 8, 0)      // r5 = minor
	for i := len(rules) - 1; i >= 0; i-- {
		deviceRule(op, exit, &rules[i])
	}
	exit(def)
	return b
}

func deviceRule(op func(byte, byte, byte, int16, int32), exit func(bool), d *device) {
	kind := map[byte]int32{'b': 1, 'c': 2}[d.kind]
	var tests [][2]int32 // register, value
	if d.kind != 'a' {
		tests = append(tests, [2]int32{2, kind})
	}
	if d.major >= 0 {
		tests = append(tests, [2]int32{4, int32(d.major)})
	}
	if d.minor >= 0 {
		tests = append(tests, [2]int32{5, int32(d.minor)})
	}
	total, at := int16(len(tests)+2), int16(0)
	mask := d.mask()
	if mask != 7 {
		total += 3
	}
	// put adds one instruction; a conditional one jumps to the next rule.
	put := func(code, dst, src byte, imm int32, jump bool) {
		off := int16(0)
		if jump {
			off = total - at - 1
		}
		op(code, dst, src, off, imm)
		at++
	}
	if mask != 7 {
		put(0xbc, 1, 3, 0, false)    // w1 = w3
		put(0x54, 1, 0, mask, false) // w1 &= mask
		if d.allow {
			put(0x5d, 1, 3, 0, true) // all that is wanted has to be in the mask
		} else {
			put(0x15, 1, 0, 0, true) // nothing of it is in the mask
		}
	}
	for _, t := range tests {
		put(0x55, byte(t[0]), 0, t[1], true)
	}
	exit(d.allow)
}
