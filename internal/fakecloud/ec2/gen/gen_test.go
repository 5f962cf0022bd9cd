package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// TestTheModelIsWhatItsSourcesSay makes the model again. The older SDK is not
// among this project's modules: where it is not in the module cache, only the
// newer one's part can be compared, and that the model is as the generator
// writes it.
func TestTheModelIsWhatItsSourcesSay(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile("../model/model.json")
	if err != nil {
		t.Fatal(err)
	}
	newer, err := newDir()
	if err != nil {
		t.Fatal(err)
	}
	older, err := cached()
	switch {
	case err == nil:
		want, err := generate(older, newer)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(have), "\n")); diff != "" {
			t.Errorf("model.json is not what go generate writes (-want +got):\n%s", diff)
		}
	case errors.Is(err, fs.ErrNotExist):
		t.Logf("%s is not in the module cache (go mod download %s brings it): members that only it has are not compared", oldFile, oldModule)
	default:
		t.Fatal(err)
	}
	compareNewer(t, newer, have)
}

// compareNewer compares what can be without the older SDK.
func compareNewer(t *testing.T, newer string, have []byte) {
	t.Helper()
	m := model.Get()
	if again, err := write(m); err != nil || !bytes.Equal(again, have) {
		t.Errorf("model.json was not written by the generator: %v", err)
	}
	v2, err := readNew(newer)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Ops) != len(operations) || m.Notice != notice {
		t.Errorf("model.json has %d operations, the generator %d, or another notice", len(m.Ops), len(operations))
	}
	for _, op := range operations {
		seen := map[string]bool{}
		var walk func(shape, function string)
		walk = func(shape, function string) {
			f, s := v2.function(function), m.Requests[shape]
			if f == nil || s == nil || seen[shape+function] {
				return
			}
			seen[shape+function] = true
			if f.list {
				walk(s.Of, f.member.function)
				return
			}
			wires := map[string]string{}
			for _, member := range s.Members {
				wires[member.Wire] = member.Shape
			}
			for wire, member := range f.members {
				below, ok := wires[wire]
				if !ok {
					t.Errorf("%s: %s.%s, which the newer SDK sends, is not in the model", op, shape, wire)
				}
				walk(below, member.function)
				if kind := scalars[member.call]; member.function == "" && ok && m.Requests[below].Type != kind {
					t.Errorf("%s: %s.%s is a %s in the model, the newer SDK sends a %s", op, shape, wire, m.Requests[below].Type, kind)
				}
			}
		}
		walk(m.Ops[op].Input, "OpDocument"+op+"Input")
	}
}

func TestTheNewerMembersAreThere(t *testing.T) {
	t.Parallel()
	wires := map[string]bool{}
	for _, member := range model.Get().Requests["TerminateInstancesRequest"].Members {
		wires[member.Wire] = true
	}
	if diff := cmp.Diff(map[string]bool{"DryRun": true, "InstanceId": true, "Force": true, "SkipOsShutdown": true}, wires); diff != "" {
		t.Errorf("TerminateInstances (-want +got):\n%s", diff)
	}
}
