// Package cmd_test runs the built commands together, and with other people's
// clients, as users do.
package cmd_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mft/internal/commandtest"
	"mft/internal/kafkatest"
)

var commands *commandtest.Commands

func TestMain(m *testing.M) {
	code := commandtest.Main(m, &commands)
	if err := kafkatest.StopShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// startBroker starts a broker on a fresh data directory and a free port.
func startBroker(t *testing.T, args ...string) *commandtest.Broker {
	t.Helper()
	return commands.StartBroker(t, filepath.Join(t.TempDir(), "data"), "", args...)
}

// withDeadline is the test's context, bounded.
func withDeadline(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
