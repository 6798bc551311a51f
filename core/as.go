package core

// As finds an optional interface of a runtime: in rt itself, or in whatever it wraps. A
// decorator takes part by having a method Unwrap() Runtime.
func As[T any](rt Runtime) (T, bool) {
	for rt != nil {
		if port, ok := rt.(T); ok {
			return port, true
		}
		wrapper, ok := rt.(interface{ Unwrap() Runtime })
		if !ok {
			break
		}
		rt = wrapper.Unwrap()
	}
	var none T
	return none, false
}
