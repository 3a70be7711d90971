package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// DefaultPort is where a broker listens unless told otherwise.
const DefaultPort = 9999

// DefaultAddress is where a broker listens, and where clients look for one,
// unless told otherwise.
const DefaultAddress = "127.0.0.1:9999"

// ParseAddress completes and checks the address of a broker or a listener:
// "host", "host:port", ":port", "::1", "[::1]:port". Without a port it gets
// DefaultPort. An empty host, which means every address of this machine, is
// left empty; port 0 means any free port.
func ParseAddress(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", fmt.Errorf("empty address: give HOST:PORT")
	}
	if bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"); net.ParseIP(bare) != nil && s != "["+bare && s != bare+"]" {
		return net.JoinHostPort(bare, strconv.Itoa(DefaultPort)), nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if strings.ContainsAny(s, ":[]") {
			return "", fmt.Errorf("address %q: give HOST:PORT, or [HOST]:PORT for IPv6", s)
		}
		if _, err := strconv.Atoi(s); err == nil {
			return "", fmt.Errorf("address %q: write HOST:%s, or :%s for every address of this machine", s, s, s)
		}
		host, port = s, strconv.Itoa(DefaultPort)
	}
	if strings.ContainsAny(host, " \t/") {
		return "", fmt.Errorf("address %q: give HOST:PORT without a scheme or path", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", fmt.Errorf("address %q: the port must be a number from 1 to 65535", s)
	}
	return net.JoinHostPort(host, port), nil
}
