package runtime

import "testing"

func TestInContainer(t *testing.T) {
	for source, want := range map[string]string{
		"/proc/12/root/dev/shm": "12 /dev/shm", "/proc/self/root/x": "", "/proc/12/cwd/x": "", "/srv/proc/12/root/x": "", "/proc/12/root": "", "/proc//root/x": "",
	} {
		got := ""
		if pid, path, ok := inContainer(source); ok {
			got = pid + " " + path
		}
		if got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
}
