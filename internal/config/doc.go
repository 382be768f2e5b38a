// Package config reads what a person configured: the file (daemon.json, in
// Docker's names) and the command line (in dockerd's names), checked as one.
//
// It decides nothing about rooms and opens nothing but the file and the
// profile that it names. An option that dockerd has and wharf has not is
// refused with the reason; one whose effect wharf has anyway is taken with a
// note (Config.Notes). Nothing is taken and ignored.
//
// The file's keys and the flags that say the same may not both be given, as
// with dockerd.
package config
