//! Expressions as `rewrite` writes them: operators as filters, parentheses where they are needed.
//!
//! Called by `rewrite` alone.

use std::fmt::Write;

use minijinja::Value;
use minijinja::machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};

use super::writer::{Lenient, Rewriter};

/// How tightly a form binds: the higher needs no parentheses where the lower is asked for.
pub(super) const CONDITION: u8 = 0;
pub(super) const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const MATHS: u8 = 4;
pub(super) const FILTERED: u8 = 5;
const PRIMARY: u8 = 6;

impl Rewriter {
    pub(super) fn text(&mut self, text: &str) {
        let text = serde_json::Value::from(text).to_string();
        self.put(&text);
    }

    /// An expression, in parentheses where it does not bind as tightly as `level`.
    pub(super) fn expression(&mut self, expr: &Expr, level: u8) {
        if self.problem.is_some() {
            return;
        }
        let wrapped = self.binding(expr) < level;
        self.put(if wrapped { "(" } else { "" });
        self.bare(expr);
        self.put(if wrapped { ")" } else { "" });
    }

    fn bare(&mut self, expr: &Expr) {
        match expr {
            Expr::Var(var) => self.put(var.id),
            Expr::Const(constant) => self.constant(&constant.value),
            Expr::Slice(slice) => {
                self.expression(&slice.expr, FILTERED);
                self.put("|__slice(");
                for part in [&slice.start, &slice.stop, &slice.step] {
                    match part {
                        Some(part) => self.expression(part, CONDITION),
                        None => self.put("none"),
                    }
                    self.put(", ");
                }
                self.put(")");
            }
            Expr::UnaryOp(unary) => {
                let (operator, level) = match unary.op {
                    UnaryOpKind::Not => ("not ", NOT),
                    UnaryOpKind::Neg => ("-", PRIMARY),
                };
                self.put(operator);
                self.expression(&unary.expr, level);
            }
            Expr::BinOp(binary) => self.binary(binary.op, &binary.left, &binary.right),
            Expr::Compare(compare) => {
                let mut left = &compare.expr;
                for (index, next) in compare.ops.iter().enumerate() {
                    self.put(if index > 0 { " and " } else { "" });
                    let (name, is_not) = compared(next.op);
                    self.put(if is_not { "not " } else { "" });
                    self.filtered(left, name, &next.expr);
                    left = &next.expr;
                }
            }
            Expr::IfExpr(condition) => {
                self.expression(&condition.true_expr, OR);
                self.put(" if ");
                self.expression(&condition.test_expr, OR);
                if let Some(other) = &condition.false_expr {
                    self.put(" else ");
                    self.expression(other, CONDITION);
                }
            }
            Expr::GetAttr(attr) => {
                self.expression(&attr.expr, PRIMARY);
                self.put(&format!(".{}", attr.name));
            }
            Expr::GetItem(item) => {
                self.expression(&item.expr, PRIMARY);
                self.put("[");
                self.expression(&item.subscript_expr, CONDITION);
                self.put("]");
            }
            Expr::Call(call) => self.call(&call.expr, &call.args),
            Expr::List(_) | Expr::Map(_) => self.literal(expr),
            Expr::Filter(filter) => {
                if let Some(base) = &filter.expr {
                    self.expression(base, FILTERED);
                    // minijinja's own, which call others by name: they get a plain list.
                    let calls = ["map", "select", "reject", "selectattr", "rejectattr"];
                    self.put(if calls.contains(&filter.name) {
                        "|__list|"
                    } else {
                        "|"
                    });
                }
                self.names.filters.insert(filter.name.to_owned());
                self.put(filter.name);
                self.arguments(&filter.args, "");
            }
            Expr::Test(test) => {
                self.expression(&test.expr, FILTERED);
                self.put(" is ");
                self.names.tests.insert(test.name.to_owned());
                self.put(test.name);
                self.arguments(&test.args, "");
            }
        }
    }

    fn literal(&mut self, expr: &Expr) {
        let is_constant = |item: &Expr| matches!(item, Expr::Const(_));
        let is_tuple = self.is_tuple(expr);
        let is_plain = match expr {
            Expr::List(list) => {
                self.put("[");
                for item in &list.items {
                    self.expression(item, CONDITION);
                    self.put(", ");
                }
                self.put("]");
                list.items.iter().all(is_constant)
            }
            Expr::Map(map) => {
                self.put("{");
                for (key, value) in map.keys.iter().zip(&map.values) {
                    self.expression(key, CONDITION);
                    self.put(": ");
                    self.expression(value, CONDITION);
                    self.put(", ");
                }
                self.put("}");
                map.keys.iter().chain(&map.values).all(is_constant)
            }
            _ => true,
        };
        self.put(match (is_tuple, is_plain) {
            (true, _) => "|__tuple",
            (false, true) => "",
            (false, false) => "|__new",
        });
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr, right: &Expr) {
        let (operator, level) = match op {
            BinOpKind::ScOr => (" or ", OR),
            BinOpKind::ScAnd => (" and ", AND),
            BinOpKind::Sub => (" - ", FILTERED),
            BinOpKind::Div => (" / ", FILTERED),
            BinOpKind::Add => return self.filtered(left, "add", right),
            BinOpKind::Pow => return self.filtered(left, "pow", right),
            BinOpKind::Rem => return self.filtered(left, "rem", right),
            BinOpKind::FloorDiv => return self.filtered(left, "floordiv", right),
            BinOpKind::Mul => return self.filtered(left, "mul", right),
            BinOpKind::Concat => return self.filtered(left, "concat", right),
            BinOpKind::Eq => return self.filtered(left, "eq", right),
            BinOpKind::Ne => return self.filtered(left, "ne", right),
            BinOpKind::Lt => return self.filtered(left, "lt", right),
            BinOpKind::Lte => return self.filtered(left, "le", right),
            BinOpKind::Gt => return self.filtered(left, "gt", right),
            BinOpKind::Gte => return self.filtered(left, "ge", right),
            BinOpKind::In => return self.filtered(left, "in", right),
        };
        self.expression(left, level);
        self.put(operator);
        self.expression(right, level + u8::from(level < FILTERED));
    }

    fn filtered(&mut self, left: &Expr, name: &str, right: &Expr) {
        self.expression(left, FILTERED);
        self.put(&format!("|__{name}("));
        self.expression(right, CONDITION);
        self.put(")");
    }

    pub(super) fn call(&mut self, function: &Expr, args: &[CallArg]) {
        self.expression(function, PRIMARY);
        if let Expr::Var(var) = function
            && let Some(known) = self.macros.get(var.id).cloned()
        {
            let is_splat =
                |arg: &CallArg| matches!(arg, CallArg::PosSplat(_) | CallArg::KwargSplat(_));
            if args.iter().any(is_splat) {
                self.refuse(format!(
                    "macro '{}' looks at varargs or kwargs and is called with * or **",
                    var.id
                ));
            }
            return self.more_arguments(&known, args);
        }
        let recurses = matches!(function, Expr::Var(var) if var.id == "loop");
        self.arguments(args, if recurses { "|__iter" } else { "" });
    }

    fn arguments(&mut self, args: &[CallArg], filter: &str) {
        self.put("(");
        for (index, arg) in args.iter().enumerate() {
            self.put(if index > 0 { ", " } else { "" });
            let (prefix, value) = match arg {
                CallArg::Pos(value) => (String::new(), value),
                CallArg::Kwarg(name, value) => (format!("{name}="), value),
                CallArg::PosSplat(value) => ("*".to_owned(), value),
                CallArg::KwargSplat(value) => ("**".to_owned(), value),
            };
            self.put(&prefix);
            match (arg, filter) {
                (CallArg::Pos(_), "") | (CallArg::Kwarg(..), _) => {
                    self.expression(value, CONDITION)
                }
                _ => {
                    self.expression(value, FILTERED);
                    self.put(if filter.is_empty() { "|__iter" } else { filter });
                }
            }
        }
        self.put(")");
    }

    /// Arguments of a macro that looks at those which are none of its parameters.
    fn more_arguments(&mut self, called: &Lenient, args: &[CallArg]) {
        let (mut placed, mut named) = (Vec::new(), Vec::new());
        self.put("(");
        for arg in args {
            match arg {
                CallArg::Pos(value) if placed.len() < called.parameters.len() => {
                    placed.push(value);
                    self.expression(value, CONDITION);
                    self.put(", ");
                }
                CallArg::Pos(value) => placed.push(value),
                CallArg::Kwarg(name, value)
                    if *name == "caller" || called.parameters.iter().any(|known| known == name) =>
                {
                    self.put(&format!("{name}="));
                    self.expression(value, CONDITION);
                    self.put(", ");
                }
                CallArg::Kwarg(name, value) => named.push((*name, value)),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => {}
            }
        }
        self.put("varargs=[");
        for value in placed.iter().skip(called.parameters.len()) {
            self.expression(value, CONDITION);
            self.put(", ");
        }
        self.put("]|__tuple, kwargs={");
        for (name, value) in named {
            self.text(name);
            self.put(": ");
            self.expression(value, CONDITION);
            self.put(", ");
        }
        self.put("}|__new)");
    }

    /// How tightly what is written for an expression binds.
    fn binding(&self, expr: &Expr) -> u8 {
        match expr {
            Expr::IfExpr(_) => CONDITION,
            Expr::UnaryOp(unary) => match unary.op {
                UnaryOpKind::Not => NOT,
                UnaryOpKind::Neg => MATHS,
            },
            Expr::BinOp(binary) => match binary.op {
                BinOpKind::ScOr => OR,
                BinOpKind::ScAnd => AND,
                BinOpKind::Sub | BinOpKind::Div | BinOpKind::Pow => MATHS,
                _ => FILTERED,
            },
            Expr::Compare(_) => AND,
            Expr::Slice(_) | Expr::Filter(_) | Expr::Test(_) => FILTERED,
            Expr::List(_) if self.is_tuple(expr) => FILTERED,
            Expr::List(list) => {
                match list.items.iter().all(|item| matches!(item, Expr::Const(_))) {
                    true => PRIMARY,
                    false => FILTERED,
                }
            }
            Expr::Map(map) => {
                let mut parts = map.keys.iter().chain(&map.values);
                match parts.all(|item| matches!(item, Expr::Const(_))) {
                    true => PRIMARY,
                    false => FILTERED,
                }
            }
            _ => PRIMARY,
        }
    }

    /// Whether it is written as a tuple is: not in brackets.
    fn is_tuple(&self, expr: &Expr) -> bool {
        match expr {
            Expr::List(list) => {
                let start = list.span().start_offset as usize;
                self.source.as_bytes().get(start) != Some(&b'[')
            }
            _ => false,
        }
    }

    fn constant(&mut self, value: &Value) {
        if let Some(text) = value.as_str() {
            self.text(text);
        } else if value.is_none() {
            self.put("none");
        } else {
            let mut text = String::new();
            if write!(text, "{value}").is_ok() {
                self.put(&text);
            }
        }
    }
}

fn compared(op: CompareOpKind) -> (&'static str, bool) {
    match op {
        CompareOpKind::Eq => ("eq", false),
        CompareOpKind::Ne => ("ne", false),
        CompareOpKind::Lt => ("lt", false),
        CompareOpKind::Lte => ("le", false),
        CompareOpKind::Gt => ("gt", false),
        CompareOpKind::Gte => ("ge", false),
        CompareOpKind::In => ("in", false),
        CompareOpKind::NotIn => ("in", true),
    }
}
