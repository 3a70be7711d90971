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
//	    cleaner-offset-checkpoint   how far compaction has come (see compaction.go)
//
// # Durability
//
// [Log.Append] writes to the page cache. The committer (committer.go) makes appended bytes durable and then moves the high watermark, which
// is what readers see and what [Log.Wait] waits for. It shares one fdatasync of a log's file among all that wait for that log; where many
// logs have little each, it puts their bytes into the journal (ranges.go) and shares one fdatasync among all of them. Where
// [LogConfig.WriteCaching] is set the high watermark moves at once and the fdatasync follows in the background.
//
// A checkpoint (checkpoint.go) fdatasyncs the files of what rests on the journal and writes down, for every log, up to where its bytes are
// durable; recovery puts back what the files lack of the journal's ranges (redo.go) and reads only what is younger than the checkpoint
// (recover.go). Damage behind all that is known to be durable, in the last segment, is a torn write, and is cut off; damage anywhere else
// is a [CorruptionError]. A failed fsync is fatal for the whole store ([Store.Failed]): after it, nobody knows what is on the disk.
//
// Retention and compaction (retention.go, compaction.go, swap.go) take away or replace closed segments that lie before the last checkpoint.
//
// [Inspector] reads and checks all of this without a Store, and [PlanRepair] finds out what can be done about damage.
//
// # Locks
//
// Log.appending is held from the check of an append to the end of its one write, and across a roll: it orders offsets. Log.mu guards a
// log's state, for a few memory accesses at a time, never across I/O; readers, waiters and the committer need only that one.
// Log.cleaning is held while retention or compaction are at a log. Order: Log.cleaning, Log.appending, Log.committing, segment.mending or
// committer.mu, and last Log.mu, while which nothing else is taken but Waiter.mu.
package segment
