package frame

import "strings"

// Printable cuts a text that came from a place that is not trusted, and leaves
// nothing in it that a terminal would act on.
func Printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s[:min(len(s), 4*most)])
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}
