package ec2

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// sdkDir is the folder of the SDK that these tests are built with, whose
// recorded requests are in it.
func sdkDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// recorded is the form of the SDK's recorded request, with every member filled.
func recorded(t testing.TB, dir, action string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "request_snapshot", action+".request.snap"))
	if err != nil {
		t.Fatal(err)
	}
	_, form, ok := strings.Cut(string(text), "\n\nAction=")
	if !ok {
		t.Fatalf("%s: the recorded request has no form", action)
	}
	return strings.TrimSpace("Action=" + form)
}

func TestTheSDKsRecordedRequestsParse(t *testing.T) {
	t.Parallel()
	dir := sdkDir(t)
	for action := range model.Get().Ops {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			form := recorded(t, dir, action)
			req, err := parse(form)
			if err != nil {
				t.Fatal(err)
			}
			values, err := url.ParseQuery(form)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := leaves(req.params), len(values)-2; got != want || got == 0 {
				t.Errorf("%d values of %d", got, want)
			}
			// What the SDK sends and nobody knows is refused.
			if _, err := parse(form + "&Nonsense=1"); err == nil || refusal(err).Code != "UnknownParameter" {
				t.Errorf("with another parameter: %v", err)
			}
		})
	}
}

// leaves counts the scalars in a value.
func leaves(v any) (n int) {
	switch v := v.(type) {
	case params:
		for _, below := range v {
			n += leaves(below)
		}
	case []any:
		for _, below := range v {
			n += leaves(below)
		}
	default:
		return 1
	}
	return n
}

func TestEveryOperationOfTheModelIsCarriedOut(t *testing.T) {
	t.Parallel()
	for action, op := range model.Get().Ops {
		if _, ok := operations[action]; !ok {
			t.Errorf("%s is not carried out", action)
		}
		members := model.Get().Requests[op.Input].Members
		for _, path := range operations[action].modelled {
			first, _, _ := strings.Cut(path, ".")
			if !slices.ContainsFunc(members, func(m model.Member) bool { return m.Name == first }) {
				t.Errorf("%s models %s, which the model does not know", action, path)
			}
		}
	}
	for action := range operations {
		if _, ok := model.Get().Ops[action]; !ok {
			t.Errorf("%s is not in the model", action)
		}
		if _, ok := filterNames[action]; ok != slices.Contains(operations[action].modelled, "Filters") {
			t.Errorf("%s: it has filters by one table alone", action)
		}
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	const describe = "Action=DescribeInstances&Version=2016-11-15"
	for _, test := range []struct{ name, form, code string }{
		{"all is well", describe + "&InstanceId.1=i-1&InstanceId.2=i-2&MaxResults=5", ""},
		{"no action", "Version=2016-11-15", "MissingAction"},
		{"an unknown action", "Action=MakeCoffee&Version=2016-11-15", "InvalidAction"},
		{"no version", "Action=DescribeInstances", "MissingParameter"},
		{"another version", "Action=DescribeInstances&Version=2014-01-01", "NoSuchVersion"},
		{"an unknown parameter", describe + "&Instance=i-1", "UnknownParameter"},
		{"a parameter below a scalar", describe + "&MaxResults.1=5", "UnknownParameter"},
		{"a list without number", describe + "&InstanceId=i-1", "InvalidParameterValue"},
		{"a list from 0", describe + "&InstanceId.0=i-1", "UnknownParameter"},
		{"a number with a leading zero", describe + "&InstanceId.01=i-1", "UnknownParameter"},
		{"a list with a gap", describe + "&InstanceId.1=i-1&InstanceId.3=i-3", "InvalidParameterValue"},
		{"a list's name of another protocol", describe + "&InstanceId.member.1=i-1", "UnknownParameter"},
		{"a name with another case", describe + "&instanceId.1=i-1", "UnknownParameter"},
		{"one name twice", describe + "&MaxResults=5&MaxResults=6", "InvalidParameterCombination"},
		{"a number that is none", describe + "&MaxResults=many", "InvalidParameterValue"},
		{"an empty number", describe + "&MaxResults=", "InvalidParameterValue"},
		{"a number below its bound", "Action=DescribeInstanceTypes&Version=2016-11-15&MaxResults=4", "InvalidParameterValue"},
		{"a flag that is none", describe + "&DryRun=yes", "InvalidParameterValue"},
		{"a value outside its enumeration", "Action=CreateVolume&Version=2016-11-15&AvailabilityZone=a&VolumeType=floppy", "InvalidParameterValue"},
		{"a structure as a value", "Action=RunInstances&Version=2016-11-15&MinCount=1&MaxCount=1&Placement=a", "InvalidParameterValue"},
		{"what is required is missing", "Action=RunInstances&Version=2016-11-15&MinCount=1", "MissingParameter"},
		{"what is required within is missing", "Action=DetachVolume&Version=2016-11-15", "MissingParameter"},
		{"an escape that is none", describe + "&MaxResults=%zz", "MalformedQueryString"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			req, err := parse(test.form)
			if err == nil {
				err = check(model.Get(), req.op.Input, req.params, "")
			}
			got := ""
			if err != nil {
				got = refusal(err).Code
			}
			if got != test.code {
				t.Errorf("%q (%v), want %q", got, err, test.code)
			}
		})
	}
}

func FuzzForm(f *testing.F) {
	dir := sdkDir(f)
	for action := range operations {
		f.Add(recorded(f, dir, action))
	}
	f.Add("Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag:a&Filter.1.Value.1=*")
	f.Add("Action=DescribeInstances&Version=2016-11-15&InstanceId.99999999999999999999=x&.=&..1=2")
	f.Fuzz(func(t *testing.T, form string) {
		req, err := parse(form)
		if err != nil {
			if e := refusal(err); e.Status == http.StatusInternalServerError {
				t.Fatalf("refused without saying why: %v", err)
			}
			return
		}
		_ = check(model.Get(), req.op.Input, req.params, "")
		_ = req.params.unknownTo(nil)
		// Nothing is lost: as many values as the form has, and again the same.
		values, err := url.ParseQuery(form)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := leaves(req.params), len(values)-2; got != want {
			t.Errorf("%d values of %d", got, want)
		}
		again, err := parse(values.Encode())
		if err != nil || again.params.sum() != req.params.sum() {
			t.Errorf("in another order: %v", err)
		}
	})
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true},
		{"a", "A", false},
		{"a*", "abc", true},
		{"*b*", "abc", true},
		{"a?c", "abc", true},
		{"a?", "abc", false},
		{`a\*`, "a*", true},
		{`a\*`, "ab", false},
		{"ä*.[x]", "äö.[x]", true},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
	} {
		if got := like(test.pattern, test.text); got != test.want {
			t.Errorf("%q fits %q: %t", test.text, test.pattern, got)
		}
	}
}
