package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
)

func (c *Config) checkTrash() error {
	if _, err := c.TrashAge(); err != nil {
		return err
	}
	if c.TrashMaxCount < 0 {
		return fmt.Errorf("invalid trash-max-count: %d (0 turns the trash off)", c.TrashMaxCount)
	}
	if _, err := share("trash-max-size", c.TrashMaxSize, 0); err != nil {
		return err
	}
	_, err := share("trash-min-free", c.TrashMinFree, 0)
	return err
}

// TrashAge is trash-max-age, 0 for off.
func (c *Config) TrashAge() (time.Duration, error) {
	if c.TrashMaxAge == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.TrashMaxAge)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("invalid trash-max-age %q: want a duration as 24h or 90m, or 0 to turn the trash off", c.TrashMaxAge)
	}
	return d, nil
}

// TrashSizes are trash-max-size and trash-min-free in bytes, on a file system
// of disk bytes.
func (c *Config) TrashSizes(disk int64) (limit, free int64, err error) {
	if limit, err = share("trash-max-size", c.TrashMaxSize, disk); err == nil {
		free, err = share("trash-min-free", c.TrashMinFree, disk)
	}
	return limit, free, err
}

// share reads "10%" of disk, or bytes as "20g".
func share(key, text string, disk int64) (int64, error) {
	if p, ok := strings.CutSuffix(text, "%"); ok {
		n, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil || !(n >= 0 && n <= 100) {
			return 0, fmt.Errorf("invalid %s %q: want 0%% to 100%%", key, text)
		}
		return int64(n / 100 * float64(disk)), nil
	}
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("invalid %s %q: want a part of the file system as 10%%, or bytes as 20g", key, text)
	}
	return n, nil
}
