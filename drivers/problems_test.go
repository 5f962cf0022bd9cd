package drivers_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func TestProblemsOfPlatforms(t *testing.T) {
	t.Parallel()
	systems, archs := []string{"linux", "windows"}, []string{"amd64", "arm64"}
	tests := []struct {
		name           string
		systems, archs []string
		give, want     drivers.Platform
		problems       drivers.Problems
	}{
		{"nothing is said", systems, archs, drivers.Platform{}, drivers.Platform{OS: "linux", Arch: "amd64"}, nil},
		{"what is said is allowed", systems, archs, drivers.Platform{OS: "windows", Arch: "arm64"}, drivers.Platform{OS: "windows", Arch: "arm64"}, nil},
		{"all is allowed", nil, nil, drivers.Platform{Arch: "vax"}, drivers.Platform{Arch: "vax"}, nil},
		{"a system that is not made", systems, archs, drivers.Platform{OS: "plan9"}, drivers.Platform{OS: "plan9", Arch: "amd64"}, drivers.Problems{
			{Path: "platform.os", Message: `"plan9" is not what machines of this type are; write linux or windows`},
		}},
		{"a misspelt processor", systems, archs, drivers.Platform{Arch: "amd-46"}, drivers.Platform{OS: "linux", Arch: "amd-46"}, drivers.Problems{
			{Path: "platform.arch", Message: `"amd-46" is none of amd64, arm64; did you mean "amd64"?`},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got drivers.Problems
			got.Platform(&tt.give, tt.systems, tt.archs)
			if diff := cmp.Diff(tt.problems, got); diff != "" {
				t.Errorf("problems, -want +got:\n%s", diff)
			}
			if tt.give != tt.want {
				t.Errorf("platform %+v, want %+v", tt.give, tt.want)
			}
		})
	}
}

// A file is looked at, and a device or a pipe never opened, which could block.
func TestProblemsOfFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := os.WriteFile(good, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		data    drivers.UserData
		problem string
	}{
		{"neither", drivers.UserData{}, ""},
		{"a text", drivers.UserData{UserData: "x"}, ""},
		{"a file", drivers.UserData{UserDataPath: good}, ""},
		{"both", drivers.UserData{UserData: "x", UserDataPath: good}, "give user_data or user_data_path, not both"},
		{"no file", drivers.UserData{UserDataPath: good + "s"}, good + "s: no such file or directory; give the path of a file that can be read"},
		{"a folder", drivers.UserData{UserDataPath: dir}, dir + ": is no plain file; give the path of a file that can be read"},
		{"a device", drivers.UserData{UserDataPath: os.DevNull}, os.DevNull + ": is no plain file; give the path of a file that can be read"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got, want drivers.Problems
			got.UserData(tt.data)
			if tt.problem != "" {
				want = drivers.Problems{{Path: "user_data_path", Message: tt.problem}}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	var got drivers.Problems
	got.NoFile("key", "")
	got.NoFile("key", good)
	got.NoFile("key", dir)
	if diff := cmp.Diff(drivers.Problems{{Path: "key", Message: dir + ": is no plain file; it must be there when a server starts", Warning: true}}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCheckOfRefusesAnotherTypesSpec(t *testing.T) {
	t.Parallel()
	check := drivers.CheckOf(func(*part, *drivers.Platform) drivers.Problems { return nil })
	if got := check(&part{}, nil); len(got) != 0 {
		t.Errorf("its own spec: %v", got)
	}
	if got := check(&common{}, nil); len(got) != 1 {
		t.Errorf("another's: %v, want one problem", got)
	}
	if spec := drivers.NewOf[part]()().(*part); spec.Size != 10 {
		t.Errorf("a new spec %+v, want one with its defaults", spec)
	}
}
