package drivers

import "strings"

// Nearest is the candidate that word is most likely a misspelling of, "" if
// none is near. Capitals, "_" and "-" do not count; one slip is allowed in
// short words, two from six letters on.
func Nearest(word string, candidates []string) string {
	const longest = 64
	w := squeeze(word)
	if w == "" || len(w) > longest {
		return ""
	}
	allowed := 1
	if len(w) >= 6 {
		allowed = 2
	}
	best, bestSlips := "", allowed+1
	for _, c := range candidates {
		s := squeeze(c)
		if d := len(s) - len(w); d > allowed || -d > allowed {
			continue // a slip changes at most one letter's length
		}
		slips := distance(w, s)
		// Words of one or two letters are all within one slip of each other.
		if slips < bestSlips && slips < len(s) && (slips == 0 || len(s) > 2) {
			best, bestSlips = c, slips
		}
	}
	return best
}

// separators are what squeeze drops.
var separators = strings.NewReplacer("_", "", "-", "")

func squeeze(s string) string { return separators.Replace(strings.ToLower(s)) }

// distance counts the slips (a letter added, lost, changed, or two swapped)
// between two words.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			changed := 1
			if x[i-1] == y[j-1] {
				changed = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+changed)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
