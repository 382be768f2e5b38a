//go:build !amd64

package accel

import "errors"

func selfTest(int) error { return errors.New("microVMs are for amd64 only yet") }
