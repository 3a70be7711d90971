package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestLimitAt(t *testing.T) {
	limit := Limit{
		{From: 8 * time.Hour, To: 18 * time.Hour, Rate: 5_000_000},
		{From: 22 * time.Hour, To: 6*time.Hour + 30*time.Minute, Rate: 2_000_000}, // across midnight
		{From: 12 * time.Hour, To: 13 * time.Hour, Rate: 1_000_000},
		{From: 9 * time.Hour, To: 10 * time.Hour, Rate: 7_000_000}, // the lower one counts
	}
	for clock, want := range map[string]int64{
		"00:00:00": 2_000_000, "06:29:59": 2_000_000, "06:30:00": 0, "07:59:59": 0, "08:00:00": 5_000_000, "09:30:00": 5_000_000,
		"12:00:00": 1_000_000, "12:59:59": 1_000_000, "13:00:00": 5_000_000, "17:59:59": 5_000_000, "18:00:00": 0, "21:59:59": 0,
		"22:00:00": 2_000_000, "23:59:59": 2_000_000,
	} {
		// The time of day is that of the clock's own zone.
		for _, zone := range []*time.Location{time.UTC, time.FixedZone("far", 11*3600), time.FixedZone("west", -7*3600)} {
			now, err := time.ParseInLocation("2006-01-02 15:04:05", "2026-07-01 "+clock, zone)
			if err != nil {
				t.Fatal(err)
			}
			if got := limit.At(now); got != want {
				t.Errorf("%s in %s: %d, want %d", clock, zone, got, want)
			}
		}
	}
	if got := (Limit{{Rate: 3000}}).At(time.Now()); got != 3000 {
		t.Errorf("all day: %d", got)
	}
	if got := (Limit{{To: 24 * time.Hour, Rate: 3000}}).At(time.Date(2026, 1, 1, 23, 59, 59, 0, time.UTC)); got != 3000 {
		t.Errorf("to 24:00: %d", got)
	}
	if got := Limit(nil).At(time.Now()); got != 0 {
		t.Errorf("no limit: %d", got)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]int64{
		"10MB": 10_000_000, "10 MB/s": 10_000_000, "512KiB": 512 << 10, "5M": 5_000_000, "1.5GB": 1_500_000_000, "1000": 1000, "0": 0,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "fast", "-5MB", "999", "5MB/h", "99999999999GB"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestReadLimit(t *testing.T) {
	for text, want := range map[string]Limit{
		"10MB": {{Rate: 10_000_000}},
		"0":    nil,
		`[{from: "08:00", to: "18:00", rate: 5MB}]`:              {{From: 8 * time.Hour, To: 18 * time.Hour, Rate: 5_000_000}},
		`{from: 22:30, to: 06:00:10, rate: 1MiB}`:                {{From: 22*time.Hour + 30*time.Minute, To: 6*time.Hour + 10*time.Second, Rate: 1 << 20}},
		`[{rate: 9MB}, {from: "0:00", to: "24:00", rate: 1000}]`: {{Rate: 9_000_000}, {To: 24 * time.Hour, Rate: 1000}},
	} {
		cfg, err := Parse("t.yml", []byte("transfers: [{name: a, source: x, limit: "+text+"}]"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := cfg.Transfers[0].Limit; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"fast":                                  "limit: \"fast\" is no rate",
		"[{from: 08:00, rate: 5MB}]":            "both from and to",
		"[{from: 08:00, to: 18:00}]":            "give a rate",
		"[{from: 08:00, to: 18:00, rate: 0}]":   "give a rate",
		"[{from: 08:00, to: 08:00, rate: 5MB}]": "the same",
		"[{from: 8, to: 18:00, rate: 5MB}]":     `limit[0].from: "8" is no time of day`,
		"[{from: 25:00, to: 1:00, rate: 5MB}]":  "no time of day",
		"[{from: 24:01, to: 1:00, rate: 5MB}]":  "no time of day",
		"[{from: 08:60, to: 1:00, rate: 5MB}]":  "no time of day",
		"[{at: 08:00, rate: 5MB}]":              "unknown key",
	} {
		_, err := Parse("t.yml", []byte("transfers: [{name: a, source: x, limit: "+text+"}]"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
