// Package lean is JSON for programs that read a handful of messages and end,
// or that a thousand copies run of: wharf-monitor and its stages. encoding/json
// builds tables for every type that it meets, which cost a stage more time than
// its messages do, and a monitor memory for as long as its container lives.
// Here each message is walked by reflection, with no table and no state.
//
// # Limits
//
// What those programs exchange, and no more: structs with the tags that
// encoding/json knows as name, omitempty and "-" (names are matched exactly),
// embedded structs, pointers, slices, arrays, maps with string keys, texts,
// booleans, integers, bytes as base64, and structs and slices with
// MarshalJSON and UnmarshalJSON of their own. Floats are read and not written;
// an interface can be written and not read. Anything else is an error.
//
// It owns nothing and imports nothing of ours.
package lean
