/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Every map. All but xsks and queues are shared by the instances on all interfaces. */
#ifndef HR_MAPS_H
#define HR_MAPS_H

#include "abi.h"

/*
 * The rules, in two banks of which one is in use: an edit fills the other one and then changes
 * the bank, so that a packet sees all of an edit or nothing of it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * HR_RULES);
	__type(key, struct hr_key);
	__type(value, struct hr_rule);
} rules SEC(".maps");

/* What became of frames: one row a feed, and the row HR_NO_FEED. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HR_FEEDS + 1);
	__type(key, __u32);
	__type(value, struct hr_counts);
} counters SEC(".maps");

/* The sockets of one interface, at queue * HR_WORKERS + worker. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, HR_QUEUES *HR_WORKERS);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

/* Aligned mode: the worker of each queue of one interface. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HR_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} queues SEC(".maps");

/*
 * Read by no program. A change of a map in a map returns only after every program that ran when
 * it began has ended, which is what user space waits for between two steps of an edit.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, __u32);
	});
} barrier SEC(".maps");

/* Set before an instance is loaded: the worker is chosen by queue, not by key group. */
volatile const __u32 aligned = 0;

/* Below, .bss: edited while the program runs, through user space's mapping of it. */

__u32 bank;                           /* of rules and shapes: 0 or 1 */
__u16 slots[HR_GROUPS];               /* the worker that owns each key group */
struct hr_shapes shapes[2][HR_CLASSES]; /* by bank and class */

/* Named here only so that they reach the object's type information, and Go by it. */
const struct hr_meta *type_meta __attribute__((unused));
const enum hr_verdict *type_verdict __attribute__((unused));
const enum hr_place *type_place __attribute__((unused));

#endif
