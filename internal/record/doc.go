// Package record owns what wharf must not forget: the containers' records,
// small tables for other rooms, and the ordered feed of changes that
// `docker events` shows.
//
// # On disk
//
//	<dir>/record.log   the objects: a header, then frames
//	<dir>/events.log   the feed: same form, the last few thousand, never synced
//	<dir>/record.log.damaged-<time>   a file that could not be read whole, kept for a person
//
// A frame is a mark of four bytes, the length and the CRC-32C of its payload
// (little endian, 4 bytes each), and the payload: one JSON object that says
// table, key and value, or that the key is gone. Everything is kept in memory
// too; the file is read only by Open. When more than half of it is out of
// date it is written anew beside and renamed over.
//
// An append-only log, not a page store, because any prefix of it is a
// consistent state: a copy of the file at any moment, a torn last write and a
// power cut all leave "everything up to some change" (docs/decisions/record.md).
//
// # Promises
//
// When Put returns, the change survives the death of the process (it is in
// the page cache). With durable it also survives a power cut (fdatasync(2);
// callers that wait at the same time share one). A write that fails leaves
// the old state, in memory and on disk. What cannot be read is skipped frame
// by frame, the whole file is kept aside, and Damage says so. Open works on a
// full disk too: a damaged file is appended to until it can be written anew.
//
// Publish never blocks on a subscriber. A subscriber that falls behind by
// more than the feed holds gets an error, never a silent gap.
//
// # Locks
//
// Store.mu guards memory and the file's tail; log.syncMu is taken before it,
// never while it is held. feed.mu stands alone.
package record
