package userdata_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// lexed is a PowerShell script without its comments and the contents of its
// texts, and what is wrong with its brackets and quotes. It knows what the
// built-in script uses: no here-strings, no backquote outside of texts.
func lexed(text string) (code string, problems []string) {
	var out strings.Builder
	var open []rune
	closing := map[rune]rune{'}': '{', ')': '(', ']': '['}
	in := []rune(text)
	line := 1
	for i := 0; i < len(in); i++ {
		c := in[i]
		switch {
		case c == '\n':
			line++
			out.WriteRune(c)
		case c == '#':
			for i+1 < len(in) && in[i+1] != '\n' {
				i++
			}
		case c == '\'' || c == '"':
			start := line
			for i++; ; i++ {
				if i >= len(in) {
					return out.String(), append(problems, fmt.Sprintf("line %d: a text without end", start))
				}
				if in[i] == '\n' {
					line++
				}
				if in[i] == '`' && c == '"' {
					i++
					continue
				}
				if in[i] == c {
					if i+1 < len(in) && in[i+1] == c {
						i++
						continue
					}
					break
				}
			}
			out.WriteString("''")
		case strings.ContainsRune("{([", c):
			open = append(open, c)
			out.WriteRune(c)
		case strings.ContainsRune("})]", c):
			if len(open) == 0 || open[len(open)-1] != closing[c] {
				return out.String(), append(problems, fmt.Sprintf("line %d: %c closes nothing", line, c))
			}
			open = open[:len(open)-1]
			out.WriteRune(c)
		case c > 126:
			problems = append(problems, fmt.Sprintf("line %d: %q is not ASCII, which old PowerShells misread", line, c))
		default:
			out.WriteRune(c)
		}
	}
	for _, c := range open {
		problems = append(problems, fmt.Sprintf("%c is never closed", c))
	}
	return out.String(), problems
}

var (
	definedRE  = regexp.MustCompile(`(?m)^function (\w+)`)
	assignedRE = regexp.MustCompile(`\$(?:script:)?(\w+)\s*(?:=|\+\+)|foreach \(\$(\w+) in|\[string\]\$(\w+)`)
	usedRE     = regexp.MustCompile(`\$(?:script:)?(\w+)(:\w+)?`)
	commandRE  = regexp.MustCompile(`\b([A-Z]\w*-[A-Z]\w*)\b`)
)

// commands are those of Windows PowerShell 5 that the script may use.
var commands = []string{
	"Set-StrictMode", "Write-Host", "Write-Verbose", "New-Object", "Out-Null", "Invoke-WebRequest", "Start-Sleep", "Get-FileHash", "New-Item",
	"Join-Path", "Test-Path", "Move-Item", "New-ScheduledTaskSettingsSet", "New-TimeSpan", "Register-ScheduledTask", "New-ScheduledTaskTrigger",
	"New-ScheduledTaskAction", "Start-ScheduledTask", "Get-NetFirewallRule", "New-NetFirewallRule",
	"Import-Certificate", "Get-ChildItem",
}

func TestThePowerShellScriptHoldsTogether(t *testing.T) {
	t.Parallel()
	for name, b := range requests(t) {
		if b.Platform.OS != "windows" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := string(render(t, b))
			inner, tagged := strings.CutPrefix(text, "<powershell>\n")
			if tagged != (b.Driver == "amazon") || tagged != strings.HasSuffix(inner, "</powershell>\n") {
				t.Errorf("tagged: %v", tagged)
			}
			inner = strings.TrimSuffix(inner, "</powershell>\n")
			code, problems := lexed(inner)
			for _, p := range problems {
				t.Error(p)
			}
			assigned := map[string]bool{"_": true, "env": true, "true": true, "false": true, "null": true, "LASTEXITCODE": true}
			for _, m := range assignedRE.FindAllStringSubmatch(code, -1) {
				assigned[m[1]], assigned[m[2]], assigned[m[3]] = true, true, true
			}
			for _, m := range usedRE.FindAllStringSubmatch(code, -1) {
				if !assigned[m[1]] {
					t.Errorf("$%s is never set", m[1])
				}
			}
			known := map[string]bool{}
			for _, c := range commands {
				known[c] = true
			}
			for _, m := range commandRE.FindAllStringSubmatch(code, -1) {
				if !known[m[1]] {
					t.Errorf("%s is none of %v", m[1], slices.Sorted(maps.Keys(known)))
				}
			}
			for _, m := range definedRE.FindAllStringSubmatch(code, -1) {
				if strings.Count(code, m[1]) < 2 {
					t.Errorf("function %s is not used", m[1])
				}
			}
			// The key goes into a file whose rights were set, and nowhere else.
			if n := strings.Count(code, "$key"); n != 2 {
				t.Errorf("the key is used %d times, want it set and written", n)
			}
		})
	}
}

func TestTheLexerFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"if (1) { 'a'":      "{ is never closed",
		"'it''s' + 'open":   "line 1: a text without end",
		"a }":               "} closes nothing",
		"(']' + \"`\"[\")]": "] closes nothing",
		"'ä' # ü\nü":        "line 2",
	} {
		if _, problems := lexed(text); len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("%q: %v, want %q", text, problems, want)
		}
	}
}
