package consumer

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestBulkSync(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	b := newBulkSync(int(dir.Fd()))
	if b.able {
		if err := b.sync(3); err != nil {
			t.Fatal(err)
		}
	} else if b.wanted(1, placeQueue) {
		t.Error("wanted where it is not to be had")
	}

	b = &bulkSync{fd: -1, able: true}
	for _, c := range []struct {
		size    int64
		waiting int
		want    bool
	}{{0, bulkFrom, true}, {heldBytes, placeQueue, true}, {heldBytes + 1, placeQueue, false}, {1, bulkFrom - 1, false}} {
		if got := b.wanted(c.size, c.waiting); got != c.want {
			t.Errorf("%d bytes, %d waiting: %t", c.size, c.waiting, got)
		}
	}
	b.pausing.Store(time.Now().Add(time.Hour).UnixNano())
	if b.wanted(1, placeQueue) {
		t.Error("wanted although it was slow")
	}
}

// A syncfs that fails leaves nothing of what it was for to be placed, and
// says so as a failed fsync does.
func TestBulkSyncFails(t *testing.T) {
	p := &placer{bulk: &bulkSync{fd: -1, able: true}}
	earlier := errors.New("earlier")
	group := []*placeJob{{transfer: &transfer{unsynced: true}}, {transfer: &transfer{}}, {transfer: &transfer{unsynced: true}, err: earlier}}
	p.makeDurable(group)
	if !isSyncError(group[0].err) || group[1].err != nil || group[2].err != earlier {
		t.Errorf("%v, %v, %v", group[0].err, group[1].err, group[2].err)
	}
	p.makeDurable(group[1:]) // nothing to do
	if group[1].err != nil {
		t.Error(group[1].err)
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.8.0": true, "5.10.0-21-amd64": true, "6.1": true, "5.7.19": false, "4.19.0": false, "": false, "weird": false, "5.8-rc1": true,
	} {
		if got := atLeast(release, 5, 8); got != want {
			t.Errorf("%q: %t", release, got)
		}
	}
}
