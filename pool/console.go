package pool

import (
	"cmp"
	"regexp"
	"strings"
)

// bootMark begins every line of a boot script.
const bootMark = "runner-boot: "

// stepMark is a line of a boot script on a machine's console, which may stand
// behind a time or a program's name:
//
//	runner-boot: step 3/6 download agent
//	runner-boot: step 3/6 download agent: failed: no answer from …
var stepMark = regexp.MustCompile(bootMark + `step (\d{1,2}/\d{1,2} [^\r\n]*)`)

// longestStep bounds what a machine can put into a message.
const longestStep = 300

// LastBootStep is the step a boot script was at last, as its console tells:
// number, name and, if it failed there, why. It is "" if the console does not
// know or the script has come to its end.
func LastBootStep(console string) string {
	found := stepMark.FindAllStringSubmatchIndex(console, -1)
	if len(found) == 0 {
		return ""
	}
	last := found[len(found)-1]
	if strings.Contains(console[last[1]:], bootMark+"done") {
		return ""
	}
	step := strings.Join(strings.Fields(strings.ToValidUTF8(console[last[2]:last[3]], "")), " ")
	if r := []rune(step); len(r) > longestStep {
		step = string(r[:longestStep]) + "…"
	}
	return step
}

// noBootStep is what a console without a boot script's lines means.
const noBootStep = "its console shows no step of the boot script: see that the image has cloud-init, which runs it"

// silentBoot says whether a linux machine was given a boot script of ours which
// has not written to its console.
func (m *Manager) silentBoot(inst Instance, console string) bool {
	rt := m.runtimeOf(inst)
	if rt == nil || strings.Contains(console, bootMark) || !rt.driver(inst).CanReadConsole() ||
		cmp.Or(rt.cfg.Platform.OS, "linux") != "linux" {
		return false
	}
	f := rt.flavour(inst.Tenant, inst.Variant)
	if f == nil {
		return false
	}
	booted := m.booted(f.tenant)
	if booted == nil {
		return false
	}
	options, err := booted.BootOptions()
	return err == nil && options.Template == ""
}
