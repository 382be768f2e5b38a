package words

import "testing"

func TestCount(t *testing.T) {
	if got := Count("a A b"); got["a"] != 2 || got["b"] != 1 {
		t.Error(got)
	}
}
