// Package segment stores partitions: append-only logs of Kafka record batches in files that Kafka's own tools can read, and the
// journal of the metadata that goes with them.
//
// A data directory belongs to one [Store]:
//
//	LOCK                        held while a Store is open; contains its process id
//	meta.snapshot               the state at the last checkpoint (see snapshot.go)
//	journal/<n>/                generations of the journal since that checkpoint (see journal.go)
//	topics/<topic>-<partition>/ one [Log]
//	    partition.metadata          the topic's id, in Kafka's format
//	    00000000000000000000.log    record batches v2 back to back; the name is the first offset
//	    00000000000000000000.index  sparse offset index (see index.go)
//	    00000000000000000000.timeindex
//
// # Durability
//
// [Log.Append] writes to the page cache. The committer (committer.go) makes appended bytes durable, sharing one fdatasync among all
// that wait for it, and then moves the high watermark, which is what readers see and what [Log.Wait] waits for. Where
// [LogConfig.WriteCaching] is set the high watermark moves at once and the fdatasync follows in the background.
//
// A checkpoint (checkpoint.go) writes down, for every log, up to where its bytes are durable; recovery (recover.go) reads only what is
// younger. Damage younger than that, in the last segment, is a torn write, and is cut off; damage anywhere else is a
// [CorruptionError]. A failed fsync is fatal for the whole store ([Store.Failed]): after it, nobody knows what is on the disk.
//
// # Locks
//
// Log.appending is held from the check of an append to the end of its one write, and across a roll: it orders offsets. Log.mu guards a
// log's state, for a few memory accesses at a time, never across I/O; readers, waiters and the committer need only that one.
// Order: Log.appending, Log.committing, segment.mending or committer.mu, and last Log.mu, while which nothing else is taken but Waiter.mu.
package segment
