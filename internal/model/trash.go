package model

import "time"

// TrashedVolume is a removed volume whose data is still there.
type TrashedVolume struct {
	ID        string            `json:"id"` // names it in the trash: 12 hexadecimal digits
	Name      string            `json:"name"`
	Removed   time.Time         `json:"removed"`
	Container ID                `json:"container,omitempty"` // whose removal took it along (rm -v, --rm)
	Size      int64             `json:"size"`                // bytes on the disk; -1: not measured yet
	Driver    string            `json:"driver"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"`
}
