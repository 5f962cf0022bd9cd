package poolfile_test

import (
	"os"
	"strings"
	"testing"
	"time"
)

// A zone that is suggested can be written.
func TestSuggestedZonesExist(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("zones.txt")
	if err != nil {
		t.Fatal(err)
	}
	zones := strings.Fields(string(raw))
	if len(zones) < 400 {
		t.Errorf("only %d zones", len(zones))
	}
	for _, zone := range zones {
		if _, err := time.LoadLocation(zone); err != nil {
			t.Errorf("%s: %v", zone, err)
		}
	}
}
