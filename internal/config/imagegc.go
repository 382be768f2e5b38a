package config

import (
	"fmt"
	"time"
)

func (c *Config) checkImageGC() error {
	if _, err := c.ImageAge(); err != nil {
		return err
	}
	_, err := share("image-gc-mark", c.ImageGCMark, 0)
	return err
}

// ImageAge is image-gc-age, 0 for off.
func (c *Config) ImageAge() (time.Duration, error) {
	if c.ImageGCAge == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.ImageGCAge)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("invalid image-gc-age %q: want a duration of a second or more, as 720h, or 0 to keep all images", c.ImageGCAge)
	}
	return d, nil
}

// ImageMark is image-gc-mark in bytes, on a file system of disk bytes.
func (c *Config) ImageMark(disk int64) int64 {
	n, _ := share("image-gc-mark", c.ImageGCMark, disk) // checked when it was read
	return n
}
