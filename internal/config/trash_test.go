package config

import (
	"testing"
	"time"
)

func TestTrash(t *testing.T) {
	for _, tc := range []struct {
		age, size, free string
		count           int
		bad             bool
		wantAge         time.Duration
		limit, min      int64
	}{
		{age: "24h", size: "10%", free: "2%", count: 1, wantAge: 24 * time.Hour, limit: 100, min: 20},
		{age: "0", size: "1k", free: "0", wantAge: 0, limit: 1024},
		{age: "24", size: "1", free: "1", bad: true},
		{age: "-1h", size: "1", free: "1", bad: true},
		{age: "1h", size: "101%", free: "1", bad: true},
		{age: "1h", size: "NaN%", free: "1", bad: true},
		{age: "1h", size: "much", free: "1", bad: true},
		{age: "1h", size: "1", free: "-1%", bad: true},
		{age: "1h", size: "1", free: "1", count: -1, bad: true},
	} {
		c := Default()
		c.TrashMaxAge, c.TrashMaxSize, c.TrashMinFree, c.TrashMaxCount = tc.age, tc.size, tc.free, tc.count
		if err := c.checkTrash(); (err != nil) != tc.bad {
			t.Errorf("%+v: %v", tc, err)
		}
		if tc.bad {
			continue
		}
		age, _ := c.TrashAge()
		limit, free, _ := c.TrashSizes(1000)
		if age != tc.wantAge || limit != tc.limit || free != tc.min {
			t.Errorf("%+v: %v %d %d", tc, age, limit, free)
		}
	}
}
