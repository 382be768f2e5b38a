// Package monitor holds one container: it starts its process through the
// runtime, holds its stdio and writes its log, waits for it and records its
// exit. It outlives the daemon and never needs one after the start.
//
// # Owns
//
// In instances/<id> the files "monitor.sock" (there while the container runs)
// and "exit" (JSON of monitorapi.Exit, written once, by rename, before anybody
// is told of the exit and before the socket goes). The pipes or the terminal
// of the process and of every process that was exec'd. The log, through
// internal/logs/logfile.
//
// # Never
//
// Touches networks, cgroups, images or records; decides whether to restart;
// ends the container because a client or the daemon went away.
//
// # Invariants
//
// Output goes to the log first, then to clients. A client that has gone is
// dropped; a slow one blocks the process as a full pipe would, until the
// process has ended: then what is left is queued for it, and the exit is
// recorded without waiting for it. The monitor stays until such clients have
// read everything or are gone.
//
// Nothing waits in a system call that holds a thread: sockets, pipes,
// terminals and process descriptors are all polled, because a thread costs
// more memory than the rest of a request. For size, net, os/exec and log/slog
// are not imported.
//
// # Lock order
//
// monitor.mu, then streams.mu, then client.mu. The log has its own, taken
// alone.
package monitor
