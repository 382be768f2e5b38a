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

// VolumeSnapshot is a read-only copy of a volume's data at one time.
type VolumeSnapshot struct {
	Volume  string    `json:"Volume"`
	Name    string    `json:"Name"`
	Created time.Time `json:"CreatedAt"`
	Size    int64     `json:"Size"`   // bytes on the disk; blocks that are shared with the volume count too
	Paused  []string  `json:"Paused"` // containers that stood still while it was made
}

// VolumeProgress tells how far a copy is.
type VolumeProgress struct {
	Bytes int64 `json:"bytes"`
}

// VolumeClone asks for a volume with another one's data.
type VolumeClone struct {
	Source   string            // volume
	Snapshot string            // of it; "": its present data
	Name     string            // of the new volume
	Labels   map[string]string // of the new volume
	Options  map[string]string // of the new volume: size
}

// VolumeImport asks for a volume that is filled from a tar.
type VolumeImport struct {
	Name    string
	Labels  map[string]string
	Options map[string]string // size
	Devices bool              // the tar may have device nodes
}
