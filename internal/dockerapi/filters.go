package dockerapi

import (
	"encoding/json"

	"wharf/internal/model"
)

// parseFilters reads filters in either of Docker's forms: {"k":{"v":true}} or
// the older {"k":["v"]}. A value that is false is not wanted.
func parseFilters(text string) (model.Filters, error) {
	f := model.Filters{}
	if text == "" {
		return f, nil
	}
	var sets map[string]map[string]bool
	if json.Unmarshal([]byte(text), &sets) == nil {
		for k, values := range sets {
			for v, want := range values {
				if want {
					add(f, k, v)
				}
			}
		}
		return f, nil
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(text), &lists); err != nil {
		return nil, invalid(`invalid filter: %q is neither {"name":{"value":true}} nor {"name":["value"]}`, text)
	}
	for k, values := range lists {
		for _, v := range values {
			add(f, k, v)
		}
	}
	return f, nil
}

func add(f model.Filters, key, value string) {
	if f[key] == nil {
		f[key] = map[string]bool{}
	}
	f[key][value] = true
}
