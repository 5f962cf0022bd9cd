package image_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// readCPIO unpacks an archive to "mode content" by path.
func readCPIO(t *testing.T, file string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	align := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		field := func(i int) int {
			n, err := strconv.ParseInt(string(data[at+6+8*i:at+14+8*i]), 16, 64)
			if err != nil {
				t.Fatalf("header at %d: %v", at, err)
			}
			return int(n)
		}
		if string(data[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		name := string(data[at+110 : at+110+field(11)-1])
		body := at + align(110+field(11))
		if name == "TRAILER!!!" {
			return files
		}
		content := string(data[body : body+field(6)])
		if field(1)&0o170000 == 0o020000 {
			content = fmt.Sprintf("%d:%d", field(9), field(10))
		}
		files[name] = fmt.Sprintf("%06o %s", field(1), content)
		at = body + align(field(6))
	}
}
