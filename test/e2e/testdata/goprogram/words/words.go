// Package words counts them.
package words

import "strings"

// Count counts the words of text.
func Count(text string) map[string]int {
	out := map[string]int{}
	for _, w := range strings.Fields(text) {
		out[strings.ToLower(w)]++
	}
	return out
}
