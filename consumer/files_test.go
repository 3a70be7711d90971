package consumer

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"mft/protocol"
)

func TestSizesAroundTheChunk(t *testing.T) { onBoth(t, testSizesAroundTheChunk) }

func testSizesAroundTheChunk(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "sizes", 1)
	const chunk = 1000
	want := map[string]string{}
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 10*chunk + 7} {
		for _, known := range []bool{true, false} {
			u := newUpload(fmt.Sprintf("d/%d-%t", size, known), randomBytes(size))
			if !known {
				u.manifest.Size = protocol.SizeUnknown
			}
			s.send(0, u.records(chunk)...)
			want[u.manifest.Name] = string(u.content)
		}
	}
	dir := t.TempDir()
	summary := receive(t, s.config(dir))
	equalTrees(t, dir, want)
	if summary.Files != len(want) || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	info, err := os.Stat(filepath.Join(dir, "d/1000-true"))
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(testTime) {
		t.Errorf("mtime %v, want %v", info.ModTime(), testTime)
	}
	if info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v", info.Mode())
	}
	if again := receive(t, s.config(dir)); again.Files != 0 {
		t.Errorf("the second run placed %d files again", again.Files)
	}
}

func TestDigests(t *testing.T) { onBoth(t, testDigests) }

func testDigests(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "digests", 1)
	want := map[string]string{}
	for _, kind := range []string{protocol.DigestXXH3, protocol.DigestSHA256, protocol.DigestBLAKE3, ""} {
		u := newUpload("file-"+kind, randomBytes(5000))
		u.manifest.Digest = kind
		s.send(0, u.records(700)...)
		want[u.manifest.Name] = string(u.content)
	}
	wrong := newUpload("wrong", randomBytes(5000))
	records := wrong.records(700)
	records[3].Value[5]++
	s.send(0, records...)
	forged := newUpload("small-wrong", []byte("small"))
	s.send(0, forged.begin(), forged.chunk(0, 5), forged.endAs(protocol.End{Size: 5, Digest: "00"}))
	short := newUpload("short", randomBytes(5000))
	s.send(0, short.begin(), short.chunk(0, 4000), short.endAs(protocol.End{Size: 4000}))
	beyond := newUpload("beyond", randomBytes(5000))
	beyond.manifest.Size = 4000
	s.send(0, beyond.records(700)...)

	dir := t.TempDir()
	summary := receive(t, s.config(dir))
	equalTrees(t, dir, want)
	if summary.Files != len(want) || summary.Failed != 4 {
		t.Errorf("summary %+v", summary)
	}
	if again := receive(t, s.config(dir)); again.Failed != 0 {
		t.Errorf("failed transfers are done with, yet the second run reports them: %+v", again)
	}
}

func TestAnyOrderAndTwice(t *testing.T) { onBoth(t, testAnyOrderAndTwice) }

func testAnyOrderAndTwice(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "order", 1)
	random := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	var all []*kgo.Record
	for i := range 20 {
		u := newUpload(fmt.Sprintf("f%d", i), randomBytes(3000+i))
		chunks := append(u.chunks(100), u.chunks(130)...) // twice, differently cut
		random.Shuffle(len(chunks), func(a, b int) { chunks[a], chunks[b] = chunks[b], chunks[a] })
		all = append(all, u.begin(), u.begin())
		all = append(all, chunks[:10]...)
		if i%2 == 0 { // the end may overtake chunks of other connections
			all = append(all, u.end())
		}
		all = append(all, chunks[10:]...)
		all = append(all, u.end(), u.end())
		all = append(all, u.records(500)...) // and the whole transfer once more
		want[u.manifest.Name] = string(u.content)
	}
	s.send(0, all...)
	dir := t.TempDir()
	summary := receive(t, s.config(dir))
	equalTrees(t, dir, want)
	if summary.Files != len(want) || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
}

func TestInterleaved(t *testing.T) { onBoth(t, testInterleaved) }

func testInterleaved(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "interleaved", 1)
	want := map[string]string{}
	var queues [][]*kgo.Record
	for i := range 150 { // more than files may be open
		u := newUpload(fmt.Sprintf("dir%d/f%d", i%7, i), randomBytes(900+i))
		queues = append(queues, u.records(100))
		want[u.manifest.Name] = string(u.content)
	}
	random := rand.New(rand.NewPCG(3, 4))
	var all []*kgo.Record
	for len(queues) > 0 {
		i := random.IntN(len(queues))
		all = append(all, queues[i][0])
		if queues[i] = queues[i][1:]; len(queues[i]) == 0 {
			queues = append(queues[:i], queues[i+1:]...)
		}
	}
	s.send(0, all...)
	dir := t.TempDir()
	if summary := receive(t, s.config(dir)); summary.Files != len(want) || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	equalTrees(t, dir, want)
}

func TestLastOfANameWins(t *testing.T) { onBoth(t, testLastOfANameWins) }

func testLastOfANameWins(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "names", 1)
	var last *upload
	for i := range 50 {
		last = newUpload("same", fmt.Appendf(nil, "version %d", i))
		s.send(0, last.records(100)...)
	}
	dir := t.TempDir()
	receive(t, s.config(dir))
	equalTrees(t, dir, map[string]string{"same": string(last.content)})
}

func TestHostileNames(t *testing.T) { onBoth(t, testHostileNames) }

func testHostileNames(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "hostile", 1)
	parent := t.TempDir()
	outside := filepath.Join(parent, "outside")
	dir := filepath.Join(parent, "in")
	for _, d := range []string{outside, dir, filepath.Join(dir, "taken"), filepath.Join(dir, "real")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"absolute": outside, "relative": "../outside", "nowhere": "missing", "loop": "loop", "within": "real",
		"final": filepath.Join(outside, "final"),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Skip("no symlinks here:", err)
		}
	}
	refused := []string{
		"../x", "a/../../x", "/etc/mft-x", "..", ".", "", "a//b", `..\x`, "C:/x", "nul\x00byte", strings.Repeat("n", 256),
		"absolute/x", "relative/x", "relative/../x", "nowhere/x", "loop/x",
		"file/x", "taken", // in the way of each other
		".mft-partial", ".mft-partial/lock", ".mft-partial-2/x", ".MFT-Partial/x",
	}
	for _, name := range refused {
		s.send(0, newUpload(name, []byte("evil")).records(100)...)
	}
	s.send(0, newDir("file", 0o755).records(1)...)
	s.send(0, newDir("absolute", 0o755).records(1)...)
	for _, name := range []string{"within/x", "final", "good/deep/file"} {
		s.send(0, newUpload(name, []byte("good")).records(100)...)
	}
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Events = log.events()
	summary := receive(t, cfg)
	if summary.Refused != len(refused)+2 || summary.Files != 3 || summary.Failed != 0 {
		t.Errorf("summary %+v, want %d refused:\n%s", summary, len(refused)+2, strings.Join(log.failed, "\n"))
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside the directory: %v %v", entries, err)
	}
	equalTrees(t, parent, map[string]string{
		"outside/": "", "in/taken/": "", "in/file": "mine", "in/real/x": "good", "in/final": "good", "in/good/deep/file": "good",
		"in/absolute": "-> " + outside, "in/relative": "-> ../outside", "in/nowhere": "-> missing", "in/loop": "-> loop", "in/within": "-> real",
	})
}

func TestDirectories(t *testing.T) { onBoth(t, testDirectories) }

func testDirectories(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "dirs", 1)
	s.send(0, newDir("empty", 0o750).records(1)...)
	s.send(0, newDir("closed", 0o555).records(1)...)
	s.send(0, newDir("closed/below", 0o555).records(1)...)
	s.send(0, newUpload("closed/below/file", []byte("x")).records(1)...)
	s.send(0, newDir("blind", 0o300).records(1)...)
	s.send(0, newUpload("blind/file", []byte("x")).records(1)...)
	dir := t.TempDir()
	t.Cleanup(func() { // so that TempDir can be removed
		for _, name := range []string{"closed", "closed/below", "blind"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
				t.Error(err)
			}
		}
	})
	if summary := receive(t, s.config(dir)); summary.Dirs != 4 || summary.Files != 2 || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	for name, mode := range map[string]fs.FileMode{"empty": 0o750, "closed": 0o555, "closed/below": 0o555, "blind": 0o300} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !info.IsDir() || info.Mode().Perm() != mode || !info.ModTime().Equal(testTime) {
			t.Errorf("%s: %v, %v", name, info.Mode(), info.ModTime())
		}
	}
}

func TestForeignAndAborted(t *testing.T) { onBoth(t, testForeignAndAborted) }

func testForeignAndAborted(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "mixed", 1)
	good := newUpload("good", []byte("content"))
	s.send(0, &kgo.Record{Value: []byte("a line")}, &kgo.Record{Value: []byte("another")})
	aborted := newUpload("aborted", randomBytes(3000))
	s.send(0, aborted.begin(), aborted.chunk(0, 1000), aborted.abort())
	s.send(0, aborted.records(1000)...) // and again, under the same id
	encrypted := newUpload("encrypted", []byte("x"))
	encrypted.manifest.Encryption = "xaes-256-gcm"
	s.send(0, encrypted.records(10)...)
	future := newUpload("future", []byte("x"))
	future.manifest.Version = 2
	s.send(0, future.records(10)...)
	orphan := newUpload("orphan", randomBytes(2000))
	s.send(0, orphan.chunk(1000, 2000), orphan.end())
	s.send(0, good.records(10)...)
	dir := t.TempDir()
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Events = log.events()
	summary := receive(t, cfg)
	if summary.Files != 2 || summary.Foreign != 2 || summary.Aborted != 1 || summary.Failed != 3 {
		t.Errorf("summary %+v\n%s", summary, strings.Join(log.failed, "\n"))
	}
	equalTrees(t, dir, map[string]string{"good": "content", "aborted": string(aborted.content)})
}

func TestUnfinishedIsTakenUpByTheNextRun(t *testing.T) {
	onBoth(t, testUnfinishedIsTakenUpByTheNextRun)
}

func testUnfinishedIsTakenUpByTheNextRun(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "unfinished", 1)
	slow, quick := newUpload("slow", randomBytes(5000)), newUpload("quick", []byte("q"))
	s.send(0, slow.begin(), slow.chunk(0, 2000))
	s.send(0, quick.records(10)...)
	dir := t.TempDir()
	cfg := s.config(dir)
	if summary := receive(t, cfg); summary.Unfinished != 1 || summary.Files != 1 || !summary.Partly() {
		t.Errorf("first run: %+v", summary)
	}
	s.send(0, slow.chunk(2000, 5000), slow.end())
	if summary := receive(t, cfg); summary.Files != 1 || summary.Partly() {
		t.Errorf("second run: %+v: the quick one was in place already", summary)
	}
	equalTrees(t, dir, map[string]string{"slow": string(slow.content), "quick": "q"})
}

func TestSentAgain(t *testing.T) { onBoth(t, testSentAgain) }

func testSentAgain(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "sent-again", 1)
	dead := newUpload("file", randomBytes(5000))
	s.send(0, dead.begin(), dead.chunk(0, 2000)) // its sender is killed, started again, and sends anew
	live := newUpload("file", randomBytes(6000))
	s.send(0, live.records(1000)...)
	dir := t.TempDir()
	if summary := receive(t, s.config(dir)); summary.Files != 1 || summary.Partly() {
		t.Errorf("summary %+v", summary)
	}
	s.send(0, dead.chunk(2000, 5000), dead.end())
	if summary := receive(t, s.config(dir)); summary.Files != 0 || summary.Partly() {
		t.Errorf("second run: %+v", summary)
	}
	equalTrees(t, dir, map[string]string{"file": string(live.content)})
}

func TestAbandoned(t *testing.T) { onBoth(t, testAbandoned) }

func testAbandoned(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "abandoned", 1)
	old := newUpload("old", randomBytes(5000))
	begin, chunk := old.begin(), old.chunk(0, 2000)
	begin.Timestamp = time.Now().Add(-48 * time.Hour)
	chunk.Timestamp = begin.Timestamp
	s.send(0, begin, chunk)
	dir := t.TempDir()
	if summary := receive(t, s.config(dir)); summary.Failed != 1 {
		t.Errorf("first run: %+v", summary)
	}
	if summary := receive(t, s.config(dir)); summary.Partly() {
		t.Errorf("second run: %+v", summary)
	}
	equalTrees(t, dir, nil)
}

func TestRealTime(t *testing.T) { onBoth(t, testRealTime) }

func testRealTime(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "live", 2)
	dir := t.TempDir()
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Once, cfg.Events = false, log.events()
	stop := start(t, cfg)
	want := map[string]string{}
	for i := range 10 {
		u := newUpload(fmt.Sprintf("f%d", i), randomBytes(1000*i))
		s.send(int32(i%2), u.records(300)...)
		want[u.manifest.Name] = string(u.content)
		log.wait(t, 1)
		if content, err := os.ReadFile(filepath.Join(dir, u.manifest.Name)); err != nil || string(content) != string(u.content) {
			t.Fatalf("%s was announced and is not there: %v", u.manifest.Name, err)
		}
	}
	if summary := stop(); summary.Files != len(want) {
		t.Errorf("summary %+v", summary)
	}
	equalTrees(t, dir, want)
}

func TestOneReceiverPerDirectory(t *testing.T) { onBoth(t, testOneReceiverPerDirectory) }

func testOneReceiverPerDirectory(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "busy", 1)
	dir := t.TempDir()
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Once, cfg.Events = false, log.events()
	start(t, cfg)
	s.send(0, newUpload("f", []byte("x")).records(10)...)
	log.wait(t, 1)
	_, err := ReceiveFiles(t.Context(), s.config(dir))
	busy, ok := errors.AsType[*BusyError](err)
	if !ok || busy.PID != os.Getpid() {
		t.Errorf("second receiver: %v", err)
	}
}

func TestTopicMissing(t *testing.T) { onBoth(t, testTopicMissing) }

func testTopicMissing(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "other", 1)
	s.topic = "late"
	_, err := ReceiveFiles(t.Context(), s.config(t.TempDir()))
	if _, ok := errors.AsType[*TopicError](err); !ok {
		t.Errorf("with Once: %v", err)
	}
	dir := t.TempDir()
	cfg, log := s.config(dir), newOutcomeLog()
	cfg.Once, cfg.Events = false, log.events()
	start(t, cfg)
	s.createTopic(1)
	s.send(0, newUpload("f", []byte("x")).records(10)...)
	log.wait(t, 1)
}

func TestTopicMadeAnew(t *testing.T) { onBoth(t, testTopicMadeAnew) }

func testTopicMadeAnew(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "anew", 1)
	dir := t.TempDir()
	for i := range 5 {
		s.send(0, newUpload(fmt.Sprintf("old%d", i), []byte("x")).records(10)...)
	}
	receive(t, s.config(dir))
	if _, err := kadm.NewClient(s.client).DeleteTopic(t.Context(), s.topic); err != nil {
		t.Fatal(err)
	}
	again := newSender(t, s.brokers, s.topic, 1)
	for i := range 9 { // longer than the old one, so that its offset exists
		again.send(0, newUpload(fmt.Sprintf("new%d", i), []byte("x")).records(10)...)
	}
	if summary := receive(t, s.config(dir)); summary.Files != 9 {
		t.Errorf("of the new topic: %+v", summary)
	}
}

func TestTwoMembersShare(t *testing.T) { onBoth(t, testTwoMembersShare) }

func testTwoMembersShare(t *testing.T, brokers []string) {
	s := newSender(t, brokers, "shared", 4)
	const files = 200
	want := map[string]string{}
	sendSome := func(from, to int) {
		for i := from; i < to; i++ {
			u := newUpload(fmt.Sprintf("f%03d", i), randomBytes(500+i))
			s.send(int32(i%4), u.records(200)...)
			want[u.manifest.Name] = string(u.content)
		}
	}
	sendSome(0, files/2)
	log := newOutcomeLog()
	stops, dirs := []func() Summary{}, []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		cfg := s.config(dir)
		cfg.Group, cfg.Once = "both", false
		cfg.Events = Events{Done: func(id, _ string) { log.done <- id }}
		stops = append(stops, start(t, cfg))
	}
	log.wait(t, files/2)
	sendSome(files/2, files)
	deadline := time.Now().Add(40 * time.Second)
	union := map[string]string{}
	for len(union) < files && time.Now().Before(deadline) {
		log.wait(t, 1)
		for len(log.done) > 0 {
			<-log.done
		}
		for _, dir := range dirs {
			for name, content := range tree(t, dir) {
				union[name] = content
			}
		}
	}
	for _, stop := range stops {
		stop()
	}
	for name, content := range want {
		if union[name] != content {
			t.Errorf("%s is missing or differs", name)
		}
	}
}
