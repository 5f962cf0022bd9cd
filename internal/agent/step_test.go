//go:build unix

package agent_test

import (
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

func framed(text string) string { return "1 error occurred:\n\t* " + text + "\n\n" }

func TestResultsCallersKnow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	missing := r.path("missing")
	step := func(change func(*agentapi.StartStepRequest)) agentapi.StartStepRequest {
		s := sh("", "true")
		change(&s)
		return s
	}
	cases := []struct {
		name string
		step agentapi.StartStepRequest
		want agentapi.PollStepResponse
	}{
		{"success", sh("", "true"), agentapi.PollStepResponse{Exited: true}},
		{"exit 3", sh("", "exit 3"), agentapi.PollStepResponse{Exited: true, ExitCode: 3, Error: framed("exit status 3")}},
		{"exit 300 is the low byte", sh("", "exit 300"), agentapi.PollStepResponse{Exited: true, ExitCode: 44, Error: framed("exit status 44")}},
		{"killed by a signal", sh("", "kill -9 $$"), agentapi.PollStepResponse{Exited: true, ExitCode: -1, Error: framed("exit status -1")}},
		{
			"missing working directory",
			step(func(s *agentapi.StartStepRequest) { s.WorkingDir = missing }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("chdir " + missing + ": no such file or directory")},
		},
		{
			"entrypoint missing",
			step(func(s *agentapi.StartStepRequest) { s.Run.Entrypoint = []string{"/no/such/shell"} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("fork/exec /no/such/shell: no such file or directory")},
		},
		{
			"entrypoint not in PATH",
			step(func(s *agentapi.StartStepRequest) { s.Run.Entrypoint = []string{"no-such-shell"} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed(`exec: "no-such-shell": executable file not found in $PATH`)},
		},
		{
			"empty entrypoint in drone mode is said without the frame",
			step(func(s *agentapi.StartStepRequest) { s.Run.Entrypoint = nil }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: "step entrypoint cannot be empty"},
		},
		{
			"empty entrypoint",
			step(func(s *agentapi.StartStepRequest) { s.Run.Entrypoint = nil; s.LogDrone = false }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("step entrypoint cannot be empty"), OptimizationState: "DISABLED", TelemetryData: &agentapi.TelemetryData{}},
		},
		{
			"an image without a daemon",
			step(func(s *agentapi.StartStepRequest) { s.Image = "alpine:3" }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("Cannot connect to the Docker daemon at unix:///no/docker.sock. Is the docker daemon running?")},
		},
		{
			"outputs wanted of no command",
			step(func(s *agentapi.StartStepRequest) { s.Run.Commands = nil; s.OutputVars = []string{"A"} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("output variables need a command to take them from")},
		},
		{
			"a file that cannot be written",
			step(func(s *agentapi.StartStepRequest) { s.Files = []agentapi.File{{Path: "/proc/no/file"}} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("file /proc/no/file: mkdir /proc/no: no such file or directory")},
		},
		{
			"test selection",
			step(func(s *agentapi.StartStepRequest) { s.Kind = "RunTest"; s.RunTest.RunOnlySelectedTests = true }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: framed("test selection and splitting are not built in yet; set run_only_selected_tests and parallelize_tests to false")},
		},
		{
			"workload identities, which only a remark is made of",
			step(func(s *agentapi.StartStepRequest) { s.WorkloadIdentities = []agentapi.WorkloadIdentity{{Name: "x"}} }),
			agentapi.PollStepResponse{Exited: true},
		},
		{
			"an unknown kind is Run",
			step(func(s *agentapi.StartStepRequest) { s.Kind = "run"; s.Run.Commands = []string{"exit 5"} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 5, Error: framed("exit status 5")},
		},
		{
			"every zero of process_config, absent environment and directory, a stage id",
			step(func(s *agentapi.StartStepRequest) { s.StageRuntimeID = "stage-1" }),
			agentapi.PollStepResponse{Exited: true},
		},
		{
			"outside drone mode the answer says what was optimised",
			step(func(s *agentapi.StartStepRequest) { s.LogDrone = false; s.Run.Commands = []string{"exit 7"} }),
			agentapi.PollStepResponse{Exited: true, ExitCode: 7, Error: framed("exit status 7"), OptimizationState: "DISABLED", TelemetryData: &agentapi.TelemetryData{}},
		},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.step.ID = fmt.Sprintf("case-%d", i)
			for range 2 { // a result can be asked for again
				if diff := cmp.Diff(c.want, r.run(c.step)); diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestEnvironmentOfAStep(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *agent.Options) {
		o.Env = []string{"PATH=" + os.Getenv("PATH"), "AGENT=a", "BOTH=agent"}
	})
	r.setup(agentapi.SetupRequest{
		Envs:     map[string]string{"SETUP": "s", "BOTH": "setup", "OVER": "setup", "EMPTY": ""},
		TIConfig: agentapi.TIConfig{URL: "http://ti", Token: "tok", AccountID: "acc"},
	})
	vars := func(change func(*agentapi.StartStepRequest)) map[string]string {
		s := sh("", "env")
		change(&s)
		r.run(s)
		got := make(map[string]string)
		for line := range strings.Lines(r.output(s.ID)) {
			k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			got[k] = v
		}
		for _, shell := range []string{"PWD", "SHLVL", "_", "OLDPWD", "PATH"} {
			delete(got, shell)
		}
		return got
	}
	base := filepath.Join(r.shared, "one")
	want := map[string]string{
		"AGENT": "a", "SETUP": "s", "BOTH": "setup", "OVER": "step", "OWN": "o",
		"DRONE_ENV": base + "-export.env", "DRONE_OUTPUT": base + "-output.env", "HARNESS_OUTPUT_FILE": base + "-output.env",
		"HARNESS_OUTPUT_SECRET_FILE": base + "-output-secrets.env", "PLUGIN_ARTIFACT_FILE": base + "-artifact",
		"HARNESS_ANNOTATIONS_FILE": base + "-annotations.json", "HARNESS_ARTIFACT_FILE_PATH": base + "-artifact.json",
		"HARNESS_SCRATCH_DIR": "/scratch", "PLUGIN_METADATA_FILE": base + "-meta",
		"HARNESS_TI_SERVICE_ENDPOINT": "http://ti", "HARNESS_TI_SERVICE_TOKEN": base64.StdEncoding.EncodeToString([]byte("tok")),
		"HARNESS_ACCOUNT_ID": "acc", "HARNESS_STEP_ID": "the step", "HARNESS_INFRA": "VM",
	}
	got := vars(func(s *agentapi.StartStepRequest) {
		s.ID, s.Name, s.ScratchDir = "one", "the step", "/scratch"
		s.Environment = map[string]string{"OVER": "step", "OWN": "o", "BLANK": "", "PLUGIN_METADATA_FILE": "meta"}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}

	got = vars(func(s *agentapi.StartStepRequest) {
		s.ID = "two"
		s.Environment = map[string]string{"BLANK": "", "CI_USE_LESS_STRICT_EVALUATION_FOR_MAP_VARS": "true"}
	})
	for _, k := range []string{"BLANK", "EMPTY"} {
		if v, ok := got[k]; !ok || v != "" {
			t.Errorf("with the switch %s is %q, %v; want set and empty", k, v, ok)
		}
	}

	if err := os.MkdirAll(r.shared, 0o755); err != nil {
		t.Fatal(err)
	}
	over := r.path("over.env")
	got = vars(func(s *agentapi.StartStepRequest) { s.ID, s.OutputVarFile, s.SecretVarFile = "three", over, over+"s" })
	if got["DRONE_OUTPUT"] != over || got["HARNESS_OUTPUT_FILE"] != over || got["HARNESS_OUTPUT_SECRET_FILE"] != over+"s" {
		t.Errorf("files given by the step are not used: %v", got)
	}
}

func TestOutputsOfAStep(t *testing.T) {
	t.Parallel()
	const multi = "line one\nline = two\n\n  \"three\" $HOME `x` \\n"
	str := func(k, v string) agentapi.OutputV2 {
		return agentapi.OutputV2{Key: k, Value: v, Type: agentapi.OutputString}
	}
	cases := []struct {
		name   string
		change func(*agentapi.StartStepRequest)
		want   agentapi.PollStepResponse
		log    string // in the output
	}{
		{
			name: "output_vars, one of them unset",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"A", "UNSET"}
				s.Run.Commands = []string{"A=1; set -u"}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"A": "1", "UNSET": ""}, OutputV2: []agentapi.OutputV2{str("A", "1"), str("UNSET", "")}},
		},
		{
			name: "outputs with types, in the order asked for, and output_vars ignored",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"IGNORED"}
				s.Outputs = []agentapi.Output{{Key: "out z", Value: "Z", Type: "SECRET"}, {Key: "a", Value: "A", Type: "STRING"}, {Key: "n", Value: "A"}}
				s.Run.Commands = []string{"A=1; Z=2; echo extra=3 >> $DRONE_OUTPUT"}
			},
			want: agentapi.PollStepResponse{
				Outputs:  map[string]string{"out z": "2", "a": "1", "n": "1", "extra": "3"},
				OutputV2: []agentapi.OutputV2{{Key: "out z", Value: "2", Type: "SECRET"}, str("a", "1"), {Key: "n", Value: "1"}},
			},
		},
		{
			name: "several lines",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"M"}
				s.Environment = map[string]string{"M": multi}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"M": multi}, OutputV2: []agentapi.OutputV2{str("M", multi)}},
		},
		{
			name: "several lines with the newer reader asked for",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"M"}
				s.Environment = map[string]string{"M": multi, "CI_NEW_VERSION_GODOTENV": "true"}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"M": multi}, OutputV2: []agentapi.OutputV2{str("M", multi)}},
		},
		{
			name: "several lines where there is no base64 program cost only themselves",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"M", "N"}
				s.Run.Entrypoint = []string{"/bin/sh", "-c"}
				s.Environment = map[string]string{"M": "x\ny", "N": "1", "PATH": "/nowhere"}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"M": "x", "N": "1"}, OutputV2: []agentapi.OutputV2{str("M", "x"), str("N", "1")}},
			log:  `[runner-agent] warning: file of outputs (DRONE_OUTPUT), line 2: no "=" between key and value`,
		},
		{
			name: "written by the step itself, quoted and encoded",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{`printf 'Q="a\\nb"\nE=__B64__%s\n' "$(printf 'x\ny' | base64)" >> $HARNESS_OUTPUT_FILE`}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"Q": "a\nb", "E": "x\ny"}, OutputV2: []agentapi.OutputV2{str("Q", "a\nb"), str("E", "x\ny")}},
		},
		{
			name: "secret outputs come only with their type",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{`echo S=1 >> $HARNESS_OUTPUT_SECRET_FILE; echo A=2 >> $DRONE_OUTPUT`}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"A": "2"}, OutputV2: []agentapi.OutputV2{str("A", "2"), {Key: "S", Value: "1", Type: "SECRET"}}},
		},
		{
			name: "a broken file never fails a step, and the line is told without its text",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"A"}
				s.Run.Commands = []string{"echo hunter2-in-the-wrong-place >> $DRONE_OUTPUT; A=1"}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"A": "1"}, OutputV2: []agentapi.OutputV2{str("A", "1")}},
			log:  `[runner-agent] warning: file of outputs (DRONE_OUTPUT), line 1: no "=" between key and value`,
		},
		{
			name: "an output file that is a folder",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{"mkdir $DRONE_OUTPUT"}
			},
			want: agentapi.PollStepResponse{},
			log:  "[runner-agent] warning: file of outputs (DRONE_OUTPUT) cannot be read: not a regular file",
		},
		{
			name: "a failing step returns what it wrote, without secrets",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"A"}
				s.Run.Commands = []string{"A=1; echo B=2 >> $DRONE_OUTPUT; echo S=3 >> $HARNESS_OUTPUT_SECRET_FILE; exit 4"}
			},
			want: agentapi.PollStepResponse{ExitCode: 4, Error: framed("exit status 4"), Outputs: map[string]string{"B": "2"}, OutputV2: []agentapi.OutputV2{str("B", "2")}},
		},
		{
			name: "exported variables and an artifact",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{`echo 'export V="x y"' >> $DRONE_ENV; printf '\001\002' > $PLUGIN_ARTIFACT_FILE`}
			},
			want: agentapi.PollStepResponse{Envs: map[string]string{"V": "x y"}, Artifact: []byte{1, 2}},
		},
		{
			name: "drone mode returns none of them",
			change: func(s *agentapi.StartStepRequest) {
				s.LogDrone = true
				s.OutputVars = []string{"A"}
				s.Run.Commands = []string{"A=1; echo V=1 >> $DRONE_ENV; echo a > $PLUGIN_ARTIFACT_FILE"}
			},
			want: agentapi.PollStepResponse{},
		},
		{
			name: "python",
			change: func(s *agentapi.StartStepRequest) {
				s.OutputVars = []string{"M", "UNSET"}
				s.Environment = map[string]string{"M": multi}
				s.Run.Entrypoint = []string{"python3", "-c"}
				s.Run.Commands = []string{"x = 1"}
			},
			want: agentapi.PollStepResponse{Outputs: map[string]string{"M": multi, "UNSET": ""}, OutputV2: []agentapi.OutputV2{str("M", multi), str("UNSET", "")}},
		},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			s := ci(fmt.Sprintf("case-%d", i), "true")
			c.change(&s)
			if shell := s.Run.Entrypoint[0]; shell != "sh" {
				testhost.Program(t, shell, shell)
			}
			c.want.Exited = true
			if !s.LogDrone {
				c.want.OptimizationState, c.want.TelemetryData = "DISABLED", &agentapi.TelemetryData{}
			}
			if diff := cmp.Diff(c.want, r.run(s)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if out := r.output(s.ID); !strings.Contains(out, c.log) || (c.log == "" && strings.Contains(out, "warning")) {
				t.Errorf("output %q, want %q in it", out, c.log)
			}
		})
	}
}

func TestStepFilesOfAnEarlierStageAreNotTakenForThisOnes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := os.MkdirAll(r.shared, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"-export.env", "-output.env", "-output-secrets.env"} {
		if err := os.WriteFile(filepath.Join(r.shared, "s"+suffix), []byte("OLD=1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.run(ci("s", "true")); got.Outputs != nil || got.Envs != nil || got.OutputV2 != nil {
		t.Errorf("result %+v has what an earlier stage left", got)
	}
}

func TestTemporaryStepFilesAreDeletedOnRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := ci("s", "echo A=1 >> $DRONE_OUTPUT; echo B=1 >> $DRONE_ENV")
	s.DeleteTempStepFiles = true
	if got := r.run(s); got.Outputs["A"] != "1" || got.Envs["B"] != "1" {
		t.Fatalf("result %+v", got)
	}
	left, err := filepath.Glob(filepath.Join(r.shared, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestStepPrintsItsCommandWithoutOurCode(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := ci("s", "X=1\necho hi")
	s.OutputVars = []string{"X"}
	r.run(s)
	want := "\x1b[33;1mExecuting the following command(s):\n\x1b[33;1mX=1\n\x1b[33;1mecho hi\nhi\n"
	if diff := cmp.Diff(want, r.output("s")); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestStepFilesAreMadeAndRun(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	script := r.path("new/folder/script.sh")
	s := sh("s", script)
	s.Files = []agentapi.File{
		{Path: script, Mode: 0o700, Data: "#!/bin/sh\necho from a file in $PWD\n"},
		{Path: r.path("dir"), Mode: 0o750, IsDir: true},
		{Path: r.path("plain"), Data: "x"},
	}
	s.WorkingDir = r.work
	if got := r.run(s); got.ExitCode != 0 {
		t.Fatalf("%+v: %s", got, r.output("s"))
	}
	if got := r.output("s"); got != "from a file in "+r.work+"\n" {
		t.Errorf("output %q", got)
	}
	for path, want := range map[string]os.FileMode{script: 0o700, r.path("dir"): 0o750 | os.ModeDir, r.path("plain"): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want mode %v", path, info.Mode(), err, want)
		}
	}
}

func TestArgumentsOfAHostStep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cases := []struct {
		name   string
		change func(*agentapi.StartStepRequest)
		want   string
	}{
		{"each command is one argument", func(s *agentapi.StartStepRequest) {
			s.Run.Entrypoint, s.Run.Commands = []string{"printf", "[%s]"}, []string{"a b", "", "c"}
		}, "[a b][][c]"},
		{"entrypoint alone", func(s *agentapi.StartStepRequest) {
			s.Run.Entrypoint, s.Run.Commands = []string{"echo", "hi"}, nil
		}, "hi\n"},
		{"RunTest is its three parts", func(s *agentapi.StartStepRequest) {
			s.Kind = agentapi.KindRunTest
			s.RunTest = agentapi.RunTestConfig{Entrypoint: []string{"sh", "-c"}, PreCommand: "A=1", Args: "echo test $A", PostCommand: "echo post"}
		}, "test 1\npost\n"},
		{"RunTestsV2 without selection is Run", func(s *agentapi.StartStepRequest) {
			s.Kind = agentapi.KindRunTestsV2
			s.RunTestV2 = agentapi.RunTestV2{Entrypoint: []string{"sh", "-c"}, Commands: []string{"echo v2"}}
		}, "v2\n"},
		{"stdin is empty", func(s *agentapi.StartStepRequest) { s.Run.Commands = []string{"cat; echo end"} }, "end\n"},
		{"both streams in order", func(s *agentapi.StartStepRequest) {
			s.Run.Commands = []string{"echo 1; echo 2 >&2; echo 3; echo 4 >&2"}
		}, "1\n2\n3\n4\n"},
		{"bash", func(s *agentapi.StartStepRequest) {
			s.Run.Entrypoint, s.Run.Commands = []string{"bash", "-c"}, []string{"a=(x y); echo ${a[1]}"}
		}, "y\n"},
		{"the step's own PATH comes first", func(s *agentapi.StartStepRequest) {
			s.Files = []agentapi.File{{Path: r.path("bin/mytool"), Mode: 0o755, Data: "#!/bin/sh\necho mine\n"}}
			s.Environment = map[string]string{"PATH": r.path("bin") + ":" + os.Getenv("PATH")}
			s.Run.Entrypoint, s.Run.Commands = []string{"mytool"}, nil
		}, "mine\n"},
		{"a variable with a line break", func(s *agentapi.StartStepRequest) {
			s.Environment = map[string]string{"M": "a\nb"}
			s.Run.Commands = []string{`printf %s "$M"`}
		}, "a\nb"},
		{"an impossible variable is left out", func(s *agentapi.StartStepRequest) {
			s.Environment = map[string]string{"A=B": "x", "N": "a\x00b", "OK": "y"}
			s.Run.Commands = []string{`echo "$N$OK"`}
		}, "y\n"},
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := sh(fmt.Sprintf("case-%d", i), "")
			c.change(&s)
			if s.Run.Entrypoint[0] == "bash" {
				testhost.Program(t, "bash", "bash")
			}
			res := r.run(s)
			if got := r.output(s.ID); got != c.want || res.ExitCode != 0 {
				t.Errorf("output %q, want %q; %+v", got, c.want, res)
			}
		})
	}
}

func TestNumericUserOnAUnixHost(t *testing.T) {
	t.Parallel()
	testhost.Root(t, "become another user")
	r := newRig(t)
	cases := []struct{ user, want string }{{"12345", "12345"}, {"nobody", "0"}, {"12:34", "0"}, {"", "0"}}
	for i, c := range cases {
		s := sh(fmt.Sprintf("case-%d", i), "id -u")
		s.User = c.user
		r.run(s)
		if got := strings.TrimSpace(r.output(s.ID)); got != c.want {
			t.Errorf("user %q runs as %s, want %s", c.user, got, c.want)
		}
	}
}

func TestHostileStepIDsStayInTheirFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := []string{"../../escape", "a/b", "..", ".", "01", "1", strings.Repeat("x", 500), "ünï ćode", "with space", "new\nline", "-rf"}
	files := make(map[string]bool)
	for _, id := range ids {
		s := ci(id, `echo "ID=$DRONE_OUTPUT" >> $DRONE_OUTPUT; echo $DRONE_OUTPUT`)
		got := r.run(s)
		file := got.Outputs["ID"]
		if filepath.Dir(file) != r.shared {
			t.Errorf("id %q writes to %q", id, file)
		}
		files[file] = true
	}
	if len(files) != len(ids) {
		t.Errorf("%d ids share %d files: %v", len(ids), len(files), slices.Sorted(maps.Keys(files)))
	}
}

func TestSecretsAreMaskedInWhatAStepPrints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{Secrets: []string{"hunter2", "multi\nline-secret"}})
	s := ci("s", "printf hun; printf 'ter2 own-secret line-secret\\n'; printf hunt")
	s.Secrets = []string{"own-secret"}
	r.run(s)
	out := r.output("s")
	want := "************** ************** **************\nhunt"
	if !strings.HasSuffix(out, want) {
		t.Errorf("output %q, want it to end %q", out, want)
	}
	for _, secret := range []string{"hunter2", "own-secret", "line-secret"} {
		if strings.Contains(out, secret) {
			t.Errorf("%s is shown in %q", secret, out)
		}
	}
}

func TestASecondSetupReplacesSecretsAndVariables(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const show = "echo $WHO first-secret second-secret"
	r.setup(agentapi.SetupRequest{Secrets: []string{"first-secret"}, Envs: map[string]string{"WHO": "one"}})
	r.run(sh("a", show))
	r.setup(agentapi.SetupRequest{Secrets: []string{"second-secret"}, Envs: map[string]string{"WHO": "two"}})
	r.run(sh("b", show))
	if got, want := r.output("a"), "one ************** second-secret\n"; got != want {
		t.Errorf("first: %q, want %q", got, want)
	}
	if got, want := r.output("b"), "two first-secret **************\n"; got != want {
		t.Errorf("second: %q, want %q", got, want)
	}
}
