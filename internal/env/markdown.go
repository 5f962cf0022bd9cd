package env

import (
	"fmt"
	"strings"
)

// Markdown prints the table as docs/environment.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(header)
	for _, g := range groups() {
		fmt.Fprintf(&b, "\n## %s\n\n", g.title)
		if g.intro != "" {
			b.WriteString(g.intro + "\n\n")
		}
		if g.title == commandGroup.title {
			b.WriteString("| variable | flag | type | default | meaning |\n|---|---|---|---|---|\n")
		} else {
			b.WriteString("| variable | type | default | status | meaning |\n|---|---|---|---|---|\n")
		}
		for _, v := range Table() {
			if v.Group != g.title {
				continue
			}
			meaning := v.Meaning
			if v.Secret {
				meaning = strings.TrimPrefix(meaning+"; secret, also as `"+v.Name+"_FILE`", "; ")
			}
			def := v.Default
			if def != "" && !v.Computed {
				def = "`" + def + "`"
			}
			if v.Flag != "" {
				fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %s |\n", v.Name, v.Flag, v.Type, def, meaning)
				continue
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", v.Name, v.Type, def, v.Status, meaning)
		}
	}
	b.WriteString("\n## Removed\n\nNothing reads these any more; one that is set gets a notice at the start.\n\n| name | instead |\n|---|---|\n")
	for _, r := range RemovedNames() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", r.Name, r.Successor)
	}
	return b.String()
}

const header = `# Environment variables

This page is printed from the program's own table (` + "`go test ./internal/env -update`" + `); a test compares the two.

- The process environment wins over ` + "`.env`" + ` in the working directory, that over the file of ` + "`--envfile`" + `. A flag wins over its variable.
- A variable that is set but empty counts as unset.
- Booleans are exactly ` + "`1 t T TRUE true True 0 f F FALSE false False`" + `. Durations have a unit (` + "`90s`, `4m`" + `). Lists are separated by commas
  and their items are not trimmed. Integers have the unit their meaning names.
- A value that cannot be read ends the start with an error that names the variable and the value; all such errors are reported at once.
- A secret may be given as a file: ` + "`NAME_FILE`" + ` holds its path. Secrets are never printed.
- An unknown ` + "`DRONE_*` or `DLITE_*`" + ` name that looks like a misspelt known one gets a warning.

Status: **used**; **later**: accepted with a notice, what it configures is not built in yet; **unused**: accepted, without effect.
`
