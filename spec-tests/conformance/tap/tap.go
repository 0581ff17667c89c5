// Package tap writes the Test Anything Protocol. The programs of runtime-tools import a package of this name and
// interface (github.com/mndrix/tap-go), which Debian does not have; this is what they use of it.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T is one run of tests.
type T struct {
	// Writer is where the lines go; stdout if it is nil.
	Writer io.Writer

	count  *int
	failed *bool
	// directive stands behind the tests of this T ("TODO").
	directive string
}

// New starts a run.
func New() *T {
	return &T{count: new(int), failed: new(bool)}
}

func (t *T) print(format string, arguments ...interface{}) {
	writer := t.Writer
	if writer == nil {
		writer = os.Stdout
	}
	fmt.Fprintf(writer, format, arguments...)
}

// Header prints the version and, if it is known already, the plan.
func (t *T) Header(planned int) {
	t.print("TAP version 13\n")
	if planned > 0 {
		t.print("1..%d\n", planned)
	}
}

// AutoPlan prints the plan at the end.
func (t *T) AutoPlan() {
	t.print("1..%d\n", *t.count)
}

// Ok prints the result of one test.
func (t *T) Ok(passed bool, description string) {
	*t.count++
	result := "ok"
	if !passed {
		result = "not ok"
		if t.directive == "" {
			*t.failed = true
		}
	}
	t.print("%s %d - %s%s\n", result, *t.count, description, t.directive)
}

// Pass prints a test that passed.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail prints a test that failed.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip prints `count` tests that were not run.
func (t *T) Skip(count int, description string) {
	for ; count > 0; count-- {
		*t.count++
		t.print("ok %d # SKIP %s\n", *t.count, description)
	}
}

// Todo returns a T whose tests are expected to fail.
func (t *T) Todo() *T {
	todo := *t
	todo.directive = " # TODO"
	return &todo
}

// Diagnostic prints a comment.
func (t *T) Diagnostic(message string) {
	t.print("# %s\n", strings.ReplaceAll(message, "\n", "\n# "))
}

// Diagnosticf prints a formatted comment.
func (t *T) Diagnosticf(format string, arguments ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, arguments...))
}

// YAML prints a block about the test before it, as JSON, which is YAML.
func (t *T) YAML(message interface{}) error {
	text, err := json.MarshalIndent(message, "  ", "  ")
	if err != nil {
		return err
	}
	t.print("  ---\n  %s\n  ...\n", text)
	return nil
}
