package env

// Type is how a variable's text is read.
type Type string

// The types of variables.
const (
	// String is taken as it is.
	String Type = "string"
	// Bool is one of 1 t T TRUE true True 0 f F FALSE false False.
	Bool Type = "boolean"
	// Int is a whole number, its unit in the variable's meaning.
	Int Type = "integer"
	// Duration is Go's syntax with a unit: 90s, 4m, 1h30m.
	Duration Type = "duration"
	// List is separated by commas; items are not trimmed.
	List Type = "list"
	// Accounts is the form account={"pool":"other"};account2={…}, parsed by
	// package server.
	Accounts Type = "account map"
)

// Status says what becomes of a variable that is set.
type Status string

// The statuses of a variable.
const (
	// Used variables do what their meaning says.
	Used Status = "used"
	// Later variables are accepted and get a notice at the start: what they
	// configure is not built in yet.
	Later Status = "later"
	// Unused variables are accepted in silence: their feature is out of scope
	// or needs no switch here.
	Unused Status = "unused"
)

// Variable is one row of the table.
type Variable struct {
	Name string
	Type Type
	// Default is the text that would have the same effect as leaving the
	// variable out, or words for one that is computed (see Computed).
	Default string
	// Computed says that Default is words, not a value.
	Computed bool
	// Meaning is one sentence for an operator, with the unit of an integer.
	Meaning string
	// Secret values are never shown, and may be given as a file: NAME_FILE.
	Secret bool
	Status Status
	// Group is the heading it stands under in the documentation.
	Group string
	// Flag is the command line flag it belongs to, with dashes, "" if none.
	// Such a variable is read by the command line, not by Load.
	Flag string
	// field points to where a used variable is stored.
	field func(*Config) any
}

// Removed is a name of the past that no program reads any more.
type Removed struct {
	// Name may end in * for all names with that beginning.
	Name string
	// Successor says what to use instead.
	Successor string
}

// Table returns every variable the program knows, in the order of the
// documentation.
func Table() []Variable {
	var all []Variable
	for _, g := range groups() {
		for _, v := range g.variables {
			v.Group = g.title
			if v.Type == "" {
				v.Type = String
			}
			if v.Status == "" {
				v.Status = Used
			}
			if g.status != "" {
				v.Status = g.status
			}
			all = append(all, v)
		}
	}
	return all
}

type group struct {
	title string
	// intro is a paragraph below the title, "" for none.
	intro string
	// status, if set, is that of all its variables.
	status    Status
	variables []Variable
}
