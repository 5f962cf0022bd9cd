package poolfile_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

// configured has, for each key of a pool, what is written of it into a pool of
// pretend machines: it must change what is configured.
var configured = map[string]string{
	"name":             "name: other",
	"default":          "default: true",
	"type":             "type: qemu",
	"pool":             "pool: 3",
	"limit":            "limit: 7",
	"wait":             "wait: 5s",
	"running":          "running: 1",
	"free_max_age":     "free_max_age: 30h",
	"busy_max_age":     "busy_max_age: 5h",
	"platform.os":      "platform: {os: windows}",
	"platform.arch":    "platform: {arch: arm64}",
	"spec":             "spec: {boot_delay: 1s}",
	"variants":         "variants: [{variant_id: a}]",
	"tenants":          "tenants: [{ids: [a]}]",
	"schedules":        "schedules: [{pool: 5}]",
	"guards":           "guards: {failures: 3}",
	"platform.variant": "platform: {variant: v}",
	"platform.version": "platform: {version: v}",
	"platform.os_name": "platform: {os_name: n}",

	"variants.variant_id":                   "variants: [{variant_id: b}]",
	"variants.resource_class":               "variants: [{variant_id: a, resource_class: large}]",
	"variants.enable_nested_virtualization": "variants: [{variant_id: a, enable_nested_virtualization: true}]",
	"variants.image_name":                   "variants: [{variant_id: a, image_name: i}]",
	"variants.machine_type":                 "variants: [{variant_id: a, machine_type: m}]",
	"variants.disk_size":                    "variants: [{variant_id: a, disk_size: 5}]",
	"variants.disk_type":                    "variants: [{variant_id: a, disk_type: ssd}]",
	"variants.zones":                        "variants: [{variant_id: a, zones: [z]}]",
	"variants.gpu":                          "variants: [{variant_id: a, gpu: true}]",
	"variants.hibernate":                    "variants: [{variant_id: a, hibernate: false}]",
	"variants.pool":                         "variants: [{variant_id: a, pool: 1}]",
	"variants.limit":                        "variants: [{variant_id: a, limit: 1}]",

	"tenants.group_id": "tenants: [{ids: [a], group_id: g}]",
	"tenants.ids":      "tenants: [{ids: [a, b]}]",
	"tenants.pool":     "tenants: [{ids: [a], pool: 9}]",
	"tenants.limit":    "tenants: [{ids: [a], limit: 9}]",
	"tenants.spec":     "tenants: [{ids: [a], spec: {boot_delay: 1s}}]",
	"tenants.variants": "tenants: [{ids: [a], variants: [{variant_id: b}]}]",

	"schedules.days":       "schedules: [{pool: 5, days: mon}]",
	"schedules.from":       `schedules: [{pool: 5, from: "05:00"}]`,
	"schedules.to":         `schedules: [{pool: 5, to: "05:00"}]`,
	"schedules.timezone":   "schedules: [{pool: 5, timezone: Asia/Tokyo}]",
	"schedules.pool":       "schedules: [{pool: 6}]",
	"schedules.variant_id": "schedules: [{pool: 5, variant_id: a}]",
	"schedules.tenant":     "schedules: [{pool: 5, tenant: a}]",

	"guards.failures":              "guards: {failures: 3}",
	"guards.pause":                 "guards: {pause: 3m}",
	"guards.max_pause":             "guards: {max_pause: 3m}",
	"guards.creates_per_minute":    "guards: {creates_per_minute: 3}",
	"guards.machine_hours_per_day": "guards: {machine_hours_per_day: 3}",
	"guards.keep_failed":           "guards: {keep_failed: 3m}",
}

// shown names, for each key of a spec that is built in, the test that shows its
// effect on machines.
var shown = map[string]string{
	"amazon.account.access_key_id":          "drivers/amazon/launch_test.go TestRegionAndKeysOfTheAccount",
	"amazon.account.access_key_secret":      "drivers/amazon/launch_test.go TestRegionAndKeysOfTheAccount",
	"amazon.account.region":                 "drivers/amazon/launch_test.go TestRegionAndKeysOfTheAccount",
	"amazon.account.retries":                "drivers/amazon/launch_test.go TestRetriesAreTheAccounts",
	"amazon.account.availability_zone":      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.account.key_pair_name":          "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.name":                           "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.size":                           "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.ami":                            "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.tags":                           "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.disk.size":                      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.disk.type":                      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.disk.iops":                      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.disk.kms_key_id":                "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.disk.tags":                      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.network.private_ip":             "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.device_name":                    "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.iam_profile_arn":                "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.market_type":                    "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.hibernate":                      "drivers/amazon/launch_test.go TestEveryKeyOfTheSpecReachesTheLaunch",
	"amazon.vpc":                            "drivers/amazon/launch_test.go TestSubnetsGroupsAndZonesReachTheLaunch",
	"amazon.network.security_groups":        "drivers/amazon/launch_test.go TestSubnetsGroupsAndZonesReachTheLaunch",
	"amazon.network.vpc_security_group_ids": "drivers/amazon/launch_test.go TestSubnetsGroupsAndZonesReachTheLaunch",
	"amazon.network.subnet_id":              "drivers/amazon/launch_test.go TestSubnetsGroupsAndZonesReachTheLaunch",
	"amazon.network.zone_details":           "drivers/amazon/launch_test.go TestSubnetsGroupsAndZonesReachTheLaunch",
	"amazon.user_data":                      "drivers/amazon/launch_test.go TestBootOptionsAreTheSpecs",
	"amazon.user_data_path":                 "drivers/amazon/launch_test.go TestBootOptionsAreTheSpecs",
	"amazon.enable_c4d":                     "drivers/amazon/launch_test.go TestBootOptionsAreTheSpecs",
	"amazon.size_alt":                       "drivers/amazon/walk_test.go TestTheWalkGoesByZoneThenSizeThenMarket",
	"amazon.account.aws_session_token":      "drivers/amazon/errors_test.go TestWhatIsWrongWithTheAccountIsSaidWithTheFix",
	"amazon.network.user_data":              "drivers/amazon/spec_test.go TestOldKeysAreMoved",
	"amazon.zone_details":                   "drivers/amazon/spec_test.go TestOldKeysAreMoved",

	"qemu.image":          "drivers/qemu/config_test.go TestCheckFindsProblems",
	"qemu.memory_mb":      "drivers/qemu/unit_test.go TestCommandLineIsTheGoldenOne",
	"qemu.cpus":           "drivers/qemu/unit_test.go TestCommandLineIsTheGoldenOne",
	"qemu.disk.size":      "drivers/qemu/config_test.go TestCheckFindsProblems",
	"qemu.egress":         "drivers/qemu/config_test.go TestCheckFindsProblems",
	"qemu.user_data":      "drivers/qemu/machine_test.go TestUserDataRunsBeforeTheMachineIsReady",
	"qemu.user_data_path": "drivers/qemu/config_test.go TestCheckFindsProblems",
	"qemu.hibernate":      "internal/poolfile/effects_test.go TestHibernateReachesThePool",
	"qemu.accelerator":    "drivers/qemu/machine_test.go TestAcceleratorIsChosenWithAReason",
	"qemu.address_range":  "drivers/qemu/unit_test.go TestNewRefuses",
	"qemu.binary":         "drivers/qemu/unit_test.go TestPingSaysWhatIsMissing",
	"qemu.uid_range":      "drivers/qemu/machine_test.go TestQEMURunsWithoutPrivileges",

	"google.account.project_id":            "drivers/google/request_test.go TestTheProjectIsFound",
	"google.account.json_path":             "drivers/google/request_test.go TestTheProjectIsFound",
	"google.account.service_account_email": "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.account.no_service_account":    "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.image":                         "drivers/google/request_test.go TestImagesMayBeNamedInManyWays",
	"google.machine_type":                  "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.size":                          "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.name":                          "drivers/google/spec_test.go TestNamesBeginAsTheSpecSays",
	"google.labels":                        "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.tags":                          "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.user_data":                     "drivers/google/spec_test.go TestBootOptionsAreTheSpecs",
	"google.user_data_path":                "drivers/google/spec_test.go TestBootOptionsAreTheSpecs",
	"google.user_data_key":                 "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.disk.size":                     "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.disk.type":                     "drivers/google/request_test.go TestKindOfDisk",
	"google.network":                       "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.subnetwork":                    "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.networks":                      "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.private_ip":                    "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.zone":                          "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.scopes":                        "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.hibernate":                     "internal/poolfile/effects_test.go TestHibernateReachesThePool",
	"google.enable_nested_virtualization":  "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.enable_c4d":                    "drivers/google/spec_test.go TestBootOptionsAreTheSpecs",
	"google.gpu":                           "drivers/google/request_test.go TestKeysReachTheCloud",
	"google.egress_control":                "drivers/google/request_test.go TestAMachinesProxyIsThatOfTheNetworkItIsIn",
	"google.market_type":                   "drivers/google/request_test.go TestKeysReachTheCloud",

	"noop.create_delay":  "drivers/noop/noop_test.go TestDelays",
	"noop.boot_delay":    "drivers/noop/noop_test.go TestDelays",
	"noop.destroy_delay": "drivers/noop/noop_test.go TestDelays",
	"noop.fail_rate":     "drivers/noop/noop_test.go TestFailRateFollowsFromTheName",
	"noop.capacity":      "drivers/noop/noop_test.go TestCapacityIsHeldInARace",
	"noop.hibernate":     "internal/poolfile/effects_test.go TestHibernateReachesThePool",
	"noop.process":       "drivers/noop/process_linux_test.go TestProcessSurvivesItsRunner",
}

// leaves lists the keys of a table by path, without those that say they have
// no effect.
func leaves(prefix string, fields []drivers.Field) []string {
	var out []string
	for _, f := range fields {
		switch {
		case f.Ignored != "" || f.Unused != "":
		case f.Kind == drivers.KindObject:
			if prefix == "" && f.Name != "platform" {
				out = append(out, f.Name)
			}
			out = append(out, leaves(prefix+f.Name+".", f.Fields)...)
		default:
			out = append(out, prefix+f.Name)
			// Those of a tenant's variants are those of a variant.
			if prefix == "" {
				out = append(out, leaves(f.Name+".", f.Fields)...)
			}
		}
	}
	return out
}

// No key is parsed and does nothing, unless it says so.
func TestEveryKeyHasAnEffectOrSaysThatItHasNone(t *testing.T) {
	t.Parallel()
	base := map[string]string{
		"name": "name: p", "type": "type: noop", "pool": "pool: 2", "limit": "limit: 50", "spec": "spec: {hibernate: true}",
		"variants": "variants: [{variant_id: a}]", "tenants": "tenants: [{ids: [a]}]", "schedules": "schedules: [{pool: 5}]",
		"platform": "platform: {os: linux}",
	}
	read := func(t *testing.T, lines map[string]string) any {
		t.Helper()
		var all []string
		for _, line := range lines {
			all = append(all, line)
		}
		text := "instances: [{" + strings.Join(all, ", ") + "}]"
		config, found := poolfile.Parse("pool.yml", []byte(text), builtIn(), poolfile.Options{})
		if found.Errors() > 0 {
			t.Fatalf("%s: %v", text, found)
		}
		return config
	}
	keys := leaves("", instanceFields(t))
	known := map[string]bool{}
	for _, key := range keys {
		known[key] = true
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			text, ok := configured[key]
			if !ok {
				t.Fatal("has no test: say in configured what shows its effect, or tag the key as ignored or unused")
			}
			without, with := map[string]string{}, map[string]string{}
			for k, v := range base {
				without[k], with[k] = v, v
			}
			top, _, _ := strings.Cut(key, ".")
			if !strings.Contains(key, ".") && top != "name" && top != "type" {
				delete(without, top)
				if top == "spec" {
					without[top] = "spec: "
				}
			}
			with[top] = text
			if key == "type" { // which has neither tenants nor the same spec
				for _, lines := range []map[string]string{without, with} {
					delete(lines, "tenants")
					lines["spec"] = "spec: "
				}
			}
			if cmp.Equal(read(t, without), read(t, with), sameZone) {
				t.Errorf("%s changes nothing", text)
			}
		})
	}
	for key := range configured {
		if !known[key] {
			t.Errorf("%s is no key", key)
		}
	}
}

// A key of a spec that is built in names the test of what it does to machines.
func TestEveryKeyOfASpecNamesTheTestOfItsEffect(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, reg := range builtIn() {
		if reg.New == nil {
			continue
		}
		for _, key := range leaves(reg.Name+".", drivers.Fields(reg.NewConfig())) {
			known[key] = true
			file, name, _ := strings.Cut(shown[key], " ")
			if file == "" {
				t.Errorf("%s has no test: name it in shown, or tag the key as ignored", key)
				continue
			}
			if !declares(t, "../../"+file, name) {
				t.Errorf("%s: no %s in %s", key, name, file)
			}
		}
	}
	for key := range shown {
		if !known[key] {
			t.Errorf("%s is no key", key)
		}
	}
}

// declares says whether a file has a function.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return false
	}
	f, err := parser.ParseFile(token.NewFileSet(), path, raw, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return false
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == name {
			return true
		}
	}
	return false
}

func TestHibernateReachesThePool(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"noop", "qemu", "amazon", "google"} {
		for _, text := range []string{"true", "false"} {
			config, found := poolfile.Parse("pool.yml", []byte("instances: [{name: p, type: "+typ+", spec: {hibernate: "+text+"}}]"),
				builtIn(), poolfile.Options{CheckOnly: true})
			if found.Errors() > 0 {
				t.Fatal(found)
			}
			if got := config.Pools[0].Hibernate; got != (text == "true") {
				t.Errorf("%s: hibernate: %s makes a pool with %v", typ, text, got)
			}
		}
	}
}
