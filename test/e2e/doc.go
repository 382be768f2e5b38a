// Package e2e tests wharf from outside: the real daemon, a stock docker CLI,
// our own CLI and an SDK client, on real images.
//
// The test binary starts itself again in a network and a mount namespace of
// its own, starts one daemon there for all tests (and further ones for those
// that kill it) and loads the images once. A test makes a [scene], which names
// and labels everything that it starts and, at the end, removes it and looks
// for what was left behind: processes, control groups, instance directories,
// mounts. The run ends with the same look at the whole machine.
//
// It needs root and what test/setup.sh installs; without root every test skips.
package e2e
