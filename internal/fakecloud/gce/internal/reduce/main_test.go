package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestTheCommittedDocumentIsWhatTheGeneratorMakes fails when go.mod selects
// another version of the API, or somebody edits the document.
func TestTheCommittedDocumentIsWhatTheGeneratorMakes(t *testing.T) {
	t.Parallel()
	want, err := fromModule()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../discovery.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("discovery.json is not what go generate ./internal/fakecloud/gce makes (%d bytes, want %d)", len(got), len(want))
	}
}

func TestReduceKeepsWhatIsUsedAndNoProse(t *testing.T) {
	t.Parallel()
	out, err := fromModule()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"compute.instances.suspend"`, `"SchedulingGracefulShutdown"`, "BSD 3-clause", `"readOnly": true`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, drop := range []string{`"compute.autoscalers.insert"`, `"SslPolicy"`, "[Output Only]", "enumDescriptions"} {
		if bytes.Contains(out, []byte(drop)) {
			t.Errorf("%s is kept", drop)
		}
	}
}

func TestReduceRefusesADocumentWithoutAMethod(t *testing.T) {
	t.Parallel()
	if _, err := reduce([]byte(`{"resources":{}}`), "v0"); err == nil || !strings.Contains(err.Error(), "has no method") {
		t.Errorf("error %v", err)
	}
}

func TestRunWritesTheDocument(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/d.json"
	var stderr bytes.Buffer
	if code := run([]string{"-o", file}, nil, &stderr); code != 0 {
		t.Fatalf("exit %d: %s", code, stderr.String())
	}
	if info, err := os.Stat(file); err != nil || info.Size() < 10_000 {
		t.Errorf("file %v, %v", info, err)
	}
	if code := run([]string{"-x"}, nil, &stderr); code != 2 {
		t.Errorf("a wrong flag exits with %d", code)
	}
}
