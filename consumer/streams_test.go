package consumer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestStreams receives over four streams what other tests receive over one.
func TestStreams(t *testing.T) {
	for name, test := range map[string]func(*testing.T, []string){
		"sizes": testSizesAroundTheChunk, "any order and twice": testAnyOrderAndTwice, "interleaved": testInterleaved,
		"the last of a name wins": testLastOfANameWins, "foreign and aborted": testForeignAndAborted,
		"unfinished": testUnfinishedIsTakenUpByTheNextRun, "real time": testRealTime, "a topic made anew": testTopicMadeAnew,
		"two members": testTwoMembersShare, "killed": testKilled,
	} {
		t.Run(name, func(t *testing.T) { onBoth(t, test) })
	}
	t.Run("the broker starts again", TestBrokerStartsAgain)
	t.Run("transactions", TestTransactions)
}

// locked is a buffer for several goroutines.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestStreamsInRanges receives what lies in batches of every size: large records one to
// a batch, hundreds of small ones in another, in several partitions. Ranges of
// offsets hit batches in the middle, end too early and reach too far.
func TestStreamsInRanges(t *testing.T) {
	onBoth(t, func(t *testing.T, brokers []string) {
		const partitions = 3
		s := newSender(t, brokers, "ranges", partitions)
		rng := rand.New(rand.NewPCG(1, 2))
		want := make(map[string]string)
		for i := range 60 {
			var batch []*kgo.Record
			for j := range 1 + rng.IntN(40) {
				u := newUpload(fmt.Sprintf("f%d-%d", i, j), randomBytes(rng.IntN(400)))
				if rng.IntN(20) == 0 {
					u = newUpload(u.manifest.Name, randomBytes(30_000+rng.IntN(200_000)))
				}
				want[u.manifest.Name] = string(u.content)
				batch = append(batch, u.records(64<<10)...)
			}
			s.send(int32(rng.IntN(partitions)), batch...)
		}
		var log locked
		cfg := s.config(t.TempDir())
		cfg.Logger = zerolog.New(&log).Level(zerolog.DebugLevel)
		receive(t, cfg)
		equalTrees(t, cfg.Dir, want)
		text := log.String()
		for p := range partitions {
			if !strings.Contains(text, fmt.Sprintf(`"partition":%d,"from"`, p)) {
				t.Errorf("nothing of partition %d was fetched in ranges", p)
			}
		}
		if strings.Contains(text, "the usual way goes on") {
			t.Errorf("fetching in ranges failed:\n%s", text)
		}
	})
}
