// Package archtest is tests only: who may import whom, what the small binaries
// may contain, and the sizes of files and functions, all read from the
// sources. The tables in it are the design; docs/design.md tells them in words.
package archtest
