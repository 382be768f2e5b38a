package guest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// children lists this process's children (proc_pid_task_tid_children(5)).
func children() []int {
	var out []int
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// zombie reports whether a process has ended and is not reaped.
func zombie(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(stat, ')') // the name may hold anything
	return i >= 0 && i+2 < len(stat) && stat[i+2] == 'Z'
}
