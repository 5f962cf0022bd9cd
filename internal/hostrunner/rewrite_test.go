package hostrunner

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

var harnessLayout = layout{Dir: "/harness-st1", Volume: "harness", Root: "/harness"}

func TestTheHarnessVolumeIsTheStagesFolder(t *testing.T) {
	t.Parallel()
	setup := agentapi.SetupRequest{Volumes: []agentapi.Volume{
		{Host: &agentapi.HostVolume{ID: "harness", Name: "harness", Path: "/harness"}},
		{Host: &agentapi.HostVolume{ID: "other", Name: "other", Path: "/other", Remove: true, ReadOnly: true}},
		{Temp: &agentapi.TempVolume{ID: "t", Name: "t"}},
	}}
	got := remapSetup(harnessLayout, setup)
	want := []agentapi.Volume{
		{Host: &agentapi.HostVolume{ID: "harness", Name: "harness", Path: "/harness-st1", Create: true}},
		{Host: &agentapi.HostVolume{ID: "other", Name: "other", Path: "/other", ReadOnly: true}},
		{Temp: &agentapi.TempVolume{ID: "t", Name: "t"}},
	}
	if diff := cmp.Diff(want, got.Volumes); diff != "" {
		t.Error(diff)
	}
	if setup.Volumes[0].Host.Path != "/harness" || !setup.Volumes[1].Host.Remove {
		t.Error("the caller's request was changed")
	}
}

func TestRemapStep(t *testing.T) {
	t.Parallel()
	bare := layout{Dir: "/data/work/w-st1"}
	cases := []struct {
		name     string
		layout   layout
		in, want agentapi.StartStepRequest
	}{
		{
			"the working directory is the stage's, whatever the step says", harnessLayout,
			agentapi.StartStepRequest{WorkingDir: "/harness/sub", StageRuntimeID: "x"},
			agentapi.StartStepRequest{WorkingDir: "/harness-st1"},
		},
		{
			"mounts of the volume are at its path", harnessLayout,
			agentapi.StartStepRequest{Image: "alpine", Volumes: []agentapi.VolumeMount{{Name: "harness", Path: "/harness"}, {Name: "v", Path: "/v"}}},
			agentapi.StartStepRequest{Image: "alpine", WorkingDir: "/harness-st1", Volumes: []agentapi.VolumeMount{{Name: "harness", Path: "/harness-st1"}, {Name: "v", Path: "/v"}}},
		},
		{"without the volume a step on the host begins in the stage's folder", bare, agentapi.StartStepRequest{}, agentapi.StartStepRequest{WorkingDir: bare.Dir}},
		{"without the volume a step may begin where it likes", bare, agentapi.StartStepRequest{WorkingDir: "/srv"}, agentapi.StartStepRequest{WorkingDir: "/srv"}},
		{"without the volume a container begins where its image says", bare, agentapi.StartStepRequest{Image: "alpine"}, agentapi.StartStepRequest{Image: "alpine"}},
		{
			"only a clone's workspace is moved", harnessLayout,
			agentapi.StartStepRequest{Image: "alpine", Environment: map[string]string{workspace: "/harness/x"}},
			agentapi.StartStepRequest{Image: "alpine", WorkingDir: "/harness-st1", Environment: map[string]string{workspace: "/harness/x"}},
		},
		{
			"a clone goes into the stage's folder", harnessLayout,
			agentapi.StartStepRequest{Image: "harness/drone-git:1.7", Environment: map[string]string{workspace: "/harness/x", "A": "b"}},
			agentapi.StartStepRequest{Image: "harness/drone-git:1.7", WorkingDir: "/harness-st1", Environment: map[string]string{workspace: "/harness-st1/x", "A": "b"}},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, remapStep(c.layout, c.in)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCloneTarget(t *testing.T) {
	t.Parallel()
	own := layout{Dir: "/builds-st1", Volume: "harness", Root: "/builds"}
	for in, want := range map[string]string{
		"":                         "",
		"/harness":                 "/builds-st1",
		"/harness/repo":            "/builds-st1/repo",
		"/tmp/harness/repo":        "/builds-st1/repo",
		"/builds/a/b":              "/builds-st1/a/b",
		"repo":                     "/builds-st1/repo",
		"../../etc":                "/builds-st1/etc",
		"/harness/../../etc":       "/harness/../../etc",
		"/harnessed":               "/harnessed",
		"/srv/elsewhere":           "/srv/elsewhere",
		`C:/harness/repo`:          "/builds-st1/repo",
		"/harness/./repo/../other": "/builds-st1/other",
	} {
		if got := cloneTarget(own, in); got != want {
			t.Errorf("%q goes to %q, want %q", in, got, want)
		}
	}
}

func FuzzCloneTarget(f *testing.F) {
	f.Add("/harness/../x")
	f.Add("../..")
	f.Fuzz(func(t *testing.T, to string) {
		got := cloneTarget(harnessLayout, to)
		if got != to && got != "/harness-st1" && !strings.HasPrefix(got, "/harness-st1/") {
			t.Errorf("%q goes to %q", to, got)
		}
	})
}

func TestAFolderThatIsNoneIsRefusedWithTheRemedy(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", "harness", "/", "//", "/..", "./x"} {
		_, err := findHarness([]agentapi.Volume{{Host: &agentapi.HostVolume{ID: "harness", Path: path}}})
		if err == nil || !strings.Contains(err.Error(), "needs to be an absolute path") || !strings.Contains(err.Error(), "Windows containers") {
			t.Errorf("%q: %v", path, err)
		}
	}
	v, err := findHarness([]agentapi.Volume{{Temp: &agentapi.TempVolume{Name: "harness"}}, {Host: &agentapi.HostVolume{Name: "harness", Path: "/h"}}})
	if err != nil || v == nil || v.Path != "/h" {
		t.Errorf("by its name: %v, %v", v, err)
	}
}

func TestAStageForAnotherPlatformIsRefused(t *testing.T) {
	t.Parallel()
	linux := platform{"linux", "amd64"}
	volume := func(path string) agentapi.SetupRequest {
		return agentapi.SetupRequest{Volumes: []agentapi.Volume{{Host: &agentapi.HostVolume{ID: "harness", Path: path}}}}
	}
	envs := func(os, arch string) agentapi.SetupRequest {
		return agentapi.SetupRequest{Envs: map[string]string{stageOS: os, stageArch: arch}}
	}
	cases := []struct {
		name  string
		setup agentapi.SetupRequest
		os    string // of the key platform
		want  string // in the error
	}{
		{"nothing is said", volume("/harness"), "", ""},
		{"this one", envs("Linux", "Amd64"), "", ""},
		{"another system", envs("MacOS", ""), "", "the stage is for darwin, this host is linux/amd64"},
		{"another architecture", envs("Linux", "Arm64"), "", "the stage is for linux/arm64"},
		{"a word nobody knows", envs("plan9", ""), "", ""},
		{"a drive of Windows", volume(`C:\harness`), "", "the stage is for windows"},
		{"the key platform", envs("Linux", ""), "Windows", "the stage is for windows"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			req := &setupRequest{ID: "a", Setup: c.setup}
			req.Platform.OS = c.os
			err := refuseOther(wantedPlatform(req), linux)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}
