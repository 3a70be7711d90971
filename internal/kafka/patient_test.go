package kafka

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// patientPair is a patient connection and its other end.
func patientPair(t *testing.T) (patient, other net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dial := Patient(func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	})
	if patient, err = dial(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = patient.Close() })
	if other, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Close() })
	return patient, other
}

// TestPatientWhileBytesCome reads for longer than the deadline: no wait for a
// byte is as long. Then nothing comes any more.
func TestPatientWhileBytesCome(t *testing.T) {
	const allowed, bytes = 2 * time.Second, 30
	patient, other := patientPair(t)
	if err := patient.SetReadDeadline(time.Now().Add(allowed)); err != nil {
		t.Fatal(err)
	}
	go func() {
		for range bytes {
			time.Sleep(allowed / 20)
			if _, err := other.Write([]byte{1}); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	if n, err := io.ReadFull(patient, make([]byte, bytes)); err != nil {
		t.Fatalf("after %d bytes and %v: %v", n, time.Since(began), err)
	}
	if took := time.Since(began); took < allowed {
		t.Errorf("it took only %v", took)
	}
	if _, err := patient.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with nothing to come: %v", err)
	}
}

// TestPatientIsInterrupted has a deadline that is over end a read and a write
// at once, and what came just before does not undo it.
func TestPatientIsInterrupted(t *testing.T) {
	patient, other := patientPair(t)
	if err := patient.SetDeadline(time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, err := patient.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	read, wrote := make(chan error, 1), make(chan error, 1)
	go func() { _, err := patient.Read(make([]byte, 1)); read <- err }()
	go func() { _, err := patient.Write(make([]byte, 64<<20)); wrote <- err }() // nobody reads it
	if err := patient.SetDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, done := range []chan error{read, wrote} {
		select {
		case err := <-done:
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it goes on")
		}
	}
}
