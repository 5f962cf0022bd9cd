package archtest_test

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// rule says what a package may import of ours. A pattern ends in /* for every
// package directly below, in /** for all below. The first rule that fits a
// package holds. Whoever may import pool may import drivers too: pool's rows
// hold its types.
type rule struct {
	pkg string
	may []string
}

var table = []rule{
	{"cmd/**", []string{"**"}},
	{"drivers", nil},
	{"drivers/drivertest", []string{"drivers"}},
	{"drivers/**", []string{"drivers", "internal/guestlink"}},
	{"pool", []string{"drivers"}},
	{"pool/**", []string{"drivers", "pool", "store/**"}}, // suites and simulations below pool
	{"store", []string{"pool", "drivers"}},
	{"store/**", []string{"pool", "drivers", "store/**", "store"}},
	{"server/api", nil},
	{"server/client", []string{"server/api"}},
	{"server/**", []string{"pool", "drivers", "server/api", "internal/agent/agentapi"}},
	{"server", []string{"pool", "drivers", "server/**", "internal/agent/agentapi", "internal/agent/logservice", "internal/peers"}},
	{"internal/poolfile", []string{"pool", "drivers"}},
	{"internal/agent/agentapi", nil},
	{"internal/agent/agentclient", []string{"internal/agent/agentapi", "pool", "drivers"}},
	{"internal/agent/logservice", nil},
	{"internal/agent/logservice/**", nil},
	{"internal/agent/testreport", nil},
	{"internal/agent", []string{"internal/agent/**", "internal/guestlink"}},
	{"internal/agent/dockertest", []string{"internal/testhost"}}, // tests only
	{"internal/agent/**", []string{"internal/agent", "internal/agent/**", "internal/guestlink"}},
	{"internal/guestlink", nil},
	{"internal/peers", nil},
	{"internal/hostrunner", []string{"internal/agent", "internal/agent/**", "internal/peers", "server/api"}},
	{"internal/hostrunner/service", nil},
	{"internal/userdata", []string{"pool", "drivers"}},
	{"internal/fakecloud", []string{"internal/agent/agentapi"}},
	{"internal/fakecloud/**", []string{"internal/agent/agentapi", "internal/fakecloud", "internal/fakecloud/**"}},
	{"internal/agentfiles", nil},
	{"internal/testclock", nil},  // tests only
	{"internal/testbubble", nil}, // tests only
	{"internal/testhost", nil},   // tests only
	{"internal/sim", []string{"internal/testclock", "pool", "drivers", "drivers/**", "store", "store/**", "internal/fakecloud", "internal/fakecloud/**", "internal/agent/agentclient"}}, // tests only
	{"internal/e2e", nil},     // tests only
	{"internal/interop", nil}, // tests only
	{"internal/loadgen", []string{"server/api", "server/client"}},
	{"internal/chaos", []string{"server/api", "server/client"}},
	{"internal/chaos/cmd", []string{"internal/chaos"}},
	{"internal/env", []string{"drivers"}}, // for its search for a near name
	{"internal/archtest", nil},
	{"internal/pins", nil},
}

// external says who alone may import a package that is not ours. "std:" rules
// name packages of the standard library.
var external = []struct {
	prefix string
	may    []string
	why    string
}{
	// The chaos audit reads the tables without the store's code.
	{"database/sql", []string{"store/**", "store", "internal/chaos"}, "SQL lives in store"},
	{"github.com/mattn/go-sqlite3", []string{"store/**"}, "SQL lives in store"},
	{"modernc.org/sqlite", []string{"store/**", "internal/chaos"}, "SQL lives in store"},
	{"github.com/jackc/pgx", []string{"store/**", "internal/chaos"}, "SQL lives in store"},
	{"github.com/pressly/goose", []string{"store/**"}, "SQL lives in store"},
	{"cloud.google.com/go", []string{"drivers/google"}, "a cloud's SDK lives in its driver"},
	{"github.com/aws/", []string{"drivers/amazon"}, "a cloud's SDK lives in its driver"},
	{"github.com/moby/moby", []string{"internal/agent/**", "internal/agent"}, "containers are the agent's"},
	{"github.com/urfave/cli", []string{"cmd/**"}, "the command line lives in cmd"},
	{"github.com/prometheus", []string{"server/**", "server", "cmd/**"}, "metrics are served by server"},
}

// withoutHTTP are the packages that must not know HTTP.
var withoutHTTP = []string{"pool", "drivers", "internal/poolfile", "internal/guestlink", "internal/env", "internal/userdata", "store", "store/**"}

func fits(pattern, pkg string) bool {
	switch {
	case pattern == "**":
		return true
	case strings.HasSuffix(pattern, "/**"):
		return strings.HasPrefix(pkg, strings.TrimSuffix(pattern, "**"))
	case strings.HasSuffix(pattern, "/*"):
		return path.Dir(pkg) == strings.TrimSuffix(pattern, "/*")
	default:
		return pattern == pkg
	}
}

func fitsAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, pkg) })
}

// forbidden says why pkg must not import imp, or "".
func forbidden(pkg, imp string) string {
	if ours, ok := strings.CutPrefix(imp, module+"/"); ok {
		if strings.HasPrefix(ours, "cmd/") {
			return "nothing imports cmd"
		}
		i := slices.IndexFunc(table, func(r rule) bool { return fits(r.pkg, pkg) })
		if i < 0 {
			return "the package is not in the table of imports_test.go: say there what it may import"
		}
		// A driver may have packages of its own below it, and they it.
		if family(pkg) != "" && family(pkg) == family(ours) {
			return ""
		}
		if !fitsAny(table[i].may, ours) {
			return "the table allows " + pkg + " only " + strings.Join(table[i].may, ", ")
		}
		return ""
	}
	for _, e := range external {
		if strings.HasPrefix(imp, e.prefix) && !fitsAny(e.may, pkg) {
			return e.why
		}
	}
	if (imp == "net/http" || strings.HasPrefix(imp, "net/http/")) && fitsAny(withoutHTTP, pkg) {
		return "this package must not know HTTP"
	}
	return ""
}

// family is drivers/<name> for a driver's package and what is below it.
func family(pkg string) string {
	parts := strings.SplitN(pkg, "/", 3)
	if len(parts) < 2 || parts[0] != "drivers" || parts[1] == "drivertest" {
		return ""
	}
	return parts[0] + "/" + parts[1]
}

func TestImportsFollowTheTable(t *testing.T) {
	t.Parallel()
	checked := 0
	for _, f := range goFiles(t) {
		if f.test || f.pkg == "internal/pins" {
			continue
		}
		checked++
		if !slices.ContainsFunc(table, func(r rule) bool { return fits(r.pkg, f.pkg) }) {
			t.Errorf("%s: package %s is not in the table of imports_test.go: say there what it may import", f.name, f.pkg)
			continue
		}
		for _, imp := range f.imports {
			if why := forbidden(f.pkg, imp); why != "" {
				t.Errorf("%s imports %s: %s", f.name, imp, why)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d files were checked; is this the whole tree?", checked)
	}
}

func TestTheTableRefusesWhatItShould(t *testing.T) {
	t.Parallel()
	ours := func(p string) string { return module + "/" + p }
	for _, c := range []struct {
		pkg, imp string
		refused  bool
	}{
		{"pool", ours("drivers"), false},
		{"pool", ours("store/sqlite"), true},
		{"pool", ours("drivers/qemu"), true},
		{"pool", "net/http", true},
		{"pool", "net/http/httptest", true},
		{"pool", "database/sql", true},
		{"pool", "github.com/aws/aws-sdk-go-v2/config", true},
		{"pool", "net/url", false},
		{"drivers", ours("pool"), true},
		{"drivers/qemu", ours("drivers"), false},
		{"drivers/qemu", ours("drivers/qemu/image"), false},
		{"drivers/qemu/image", ours("drivers/qemu/qmp"), false},
		{"drivers/qemu", ours("drivers/noop"), true},
		{"drivers/qemu", ours("pool"), true},
		{"drivers/google", "cloud.google.com/go/compute/apiv1", false},
		{"drivers/noop", "cloud.google.com/go/compute/apiv1", true},
		{"store/sqlite", "database/sql", false},
		{"store/sqlite", ours("server"), true},
		{"server", ours("server/api"), false},
		{"server", ours("internal/agent/agentapi"), false},
		{"server", ours("internal/agent/agentclient"), true},
		{"server", ours("internal/agent/logservice"), false},
		{"server", ours("internal/agent"), true},
		{"internal/agent/logservice", ours("internal/agent"), true},
		{"server", "database/sql", true},
		{"server/api", ours("pool"), true},
		{"server/client", ours("server/api"), false},
		{"server/client", ours("server"), true},
		{"internal/agent/agentclient", ours("internal/agent"), true},
		{"internal/agent", ours("pool"), true},
		{"internal/loadgen", ours("pool"), true},
		{"internal/nobody", ours("pool"), true},
		{"cmd/drone-runner-aws", ours("store/sqlite"), false},
		{"server", ours("cmd/runner-agent"), true},
	} {
		if got := forbidden(c.pkg, c.imp) != ""; got != c.refused {
			t.Errorf("%s imports %s: refused %t, want %t", c.pkg, c.imp, got, c.refused)
		}
	}
}

func TestNoPackageIsADrawerForEverything(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		for _, bad := range []string{"util", "utils", "common", "types", "helpers", "models"} {
			if path.Base(f.pkg) == bad || f.file.Name.Name == bad {
				t.Errorf("%s: no package is named %s; name it after what it is for", f.name, bad)
			}
		}
	}
}
