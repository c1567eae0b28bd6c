// Package config reads the YAML file that says what headrace does.
//
// [Read] takes bytes and gives a [Config] and its [Findings]: every mistake in the
// file, not only the first, each with file, line and column, what is allowed there
// and, where a name was probably mistyped, the name that was meant.
//
// The structs of config.go are the single source: their fields, tags and comments
// make the decoder, the JSON Schema and the reference (package reference).
//
// config knows what can be judged from the file alone. What needs to know the
// formats — columns, expressions, placements — is judged by package compile, which
// reports at the same positions by [Config.Report].
package config
