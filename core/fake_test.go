package core_test

import "github.com/moatproject/moat/core"

// fake is a runtime that has no method.
type fake struct{ core.Runtime }

// decorated wraps a runtime as decorators do.
type decorated struct{ core.Runtime }

func (d decorated) Unwrap() core.Runtime { return d.Runtime }

// opaque wraps a runtime without telling.
type opaque struct{ core.Runtime }
