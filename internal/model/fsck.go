package model

// Finding is a record without its thing, or a thing without its record.
// Room, Thing and Name tell findings apart.
type Finding struct {
	Room   string `json:"room"`
	Thing  string `json:"thing"`            // what kind: "link", "control group"
	Name   string `json:"name"`             // which one: a path, a name, an id
	ID     ID     `json:"id,omitempty"`     // the container whose it is or was
	Detail string `json:"detail"`           // what is wrong, for a person
	Remedy string `json:"remedy,omitempty"` // what a repair does; "": nothing can be done without a person

	Repaired bool   `json:"repaired,omitempty"`
	Error    string `json:"error,omitempty"` // why the repair failed
}

// Fsck is what an examination of the engine brought.
type Fsck struct {
	Findings   []Finding      `json:"findings"` // never nil
	Containers int            `json:"containers"`
	Checked    map[string]int `json:"checked"` // milliseconds by room
	// Unsettled things changed hands each time that they were looked at:
	// nothing can be said about them.
	Unsettled int `json:"unsettled,omitempty"`
}

// Clean reports whether nothing is left to repair.
func (f Fsck) Clean() bool {
	for _, x := range f.Findings {
		if !x.Repaired {
			return false
		}
	}
	return true
}
