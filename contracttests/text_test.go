package contracttests

import (
	"reflect"
	"testing"
)

// TestExamplesHaveAllTexts fails where a configuration has a new field that the case of
// texts would not spoil.
func TestExamplesHaveAllTexts(t *testing.T) {
	for _, example := range []interface{ Validate() error }{
		completeConfig(), completeExec(), completeNetwork(), completeSidecar(), completeService(), completeBuild(), completeEvents(),
	} {
		if err := example.Validate(); err != nil {
			t.Errorf("%T: %v", example, err)
		}
		value := reflect.New(reflect.TypeOf(example)).Elem()
		value.Set(reflect.ValueOf(example))
		for i := range value.NumField() {
			field, found := value.Type().Field(i), false
			if !field.IsExported() || field.Anonymous || !hasText(field.Type) {
				continue
			}
			forEachText(value.Field(i), func(text string) []string { return []string{text} }, func() { found = true })
			if !found {
				t.Errorf("the example of %T has no text in %s", example, field.Name)
			}
		}
	}
}

func hasText(of reflect.Type) bool {
	switch of.Kind() {
	case reflect.String:
		return true
	case reflect.Slice:
		return hasText(of.Elem())
	case reflect.Map:
		return hasText(of.Key()) || hasText(of.Elem())
	case reflect.Struct:
		for i := range of.NumField() {
			if hasText(of.Field(i).Type) {
				return true
			}
		}
	}
	return false
}
