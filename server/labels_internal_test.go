package server

import (
	"fmt"
	"strings"
	"testing"
)

func TestTagsOfARequestAreBounded(t *testing.T) {
	t.Parallel()
	if got := labels(nil); got != nil {
		t.Errorf("of none: %v", got)
	}
	got := labels(map[string]string{
		"accountID": "a", "empty": "", "": "x", "long": strings.Repeat("x", 257), strings.Repeat("k", 129): "x",
	})
	if len(got) != 1 || got["accountID"] != "a" {
		t.Errorf("got %v", got)
	}
	many := map[string]string{}
	for n := range 100 {
		many[fmt.Sprintf("k%03d", n)] = "v"
	}
	if got := labels(many); len(got) != 40 || got["k039"] == "" {
		t.Errorf("of 100: %d, %v", len(got), got)
	}
}
