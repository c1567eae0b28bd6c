// Package compile turns a [config.Config] into a [plan.Plan].
//
//	compile.go     the whole, and its limits
//	feed.go        rules, placement, columns, time
//	query.go       streams, windows, aggregates
//	expression.go  text -> typed tree, by the parser of expr-lang
//	emit.go        typed tree -> postfix program
//	kinds.go       which kinds of message a where can want
//
// What is wrong is reported to the config, at the position of the offending word
// inside an expression where there is one, and compiling goes on: one run finds
// every mistake. The formats are passed in; compile does not know which there are.
package compile
