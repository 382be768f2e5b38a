package guestapi

// What the host takes from a guest, whose kernel belongs to whoever runs in
// it: a reply is decoded by the daemon, so each operation has a bound of its
// own. What has no bound is streamed.
const (
	// MaxReply is the longest reply of most operations.
	MaxReply = 64 << 10
	// MaxLine is the longest line of a streamed list, with its newline.
	MaxLine = 16 << 10
	// MaxList is how many lines a streamed list may have.
	MaxList = 500_000
	// MaxTop bounds the files of /proc that OpTop's reply holds.
	MaxTop = 2 << 20
)

// ReplyBound is how long the reply to op may be, and every frame after it.
func ReplyBound(op Op) int {
	switch op {
	case OpTop:
		return 2 * MaxTop // base64, names
	case OpChanges:
		return 1 << 20 // of an agent that does not stream them
	}
	return MaxReply
}
