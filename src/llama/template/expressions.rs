//! Expressions as `rewrite` writes them: operators as filters, parentheses where they are needed.
//!
//! Called by `rewrite` alone.

use std::fmt::Write;

use minijinja::Value;
use minijinja::machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};

use super::rewrite::Writer;

/// How tightly a form binds: the higher needs no parentheses where the lower is asked for.
pub(super) const CONDITION: u8 = 0;
pub(super) const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const MATHS: u8 = 4;
pub(super) const FILTERED: u8 = 5;
const PRIMARY: u8 = 6;

impl Writer {
    pub(super) fn text(&mut self, text: &str) {
        let text = serde_json::Value::from(text).to_string();
        self.put(&text);
    }

    /// An expression, in parentheses where it does not bind as tightly as `level`.
    pub(super) fn expression(&mut self, expr: &Expr, level: u8) {
        if self.problem.is_some() {
            return;
        }
        let wrapped = binding(expr) < level;
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
                self.put(filter.name);
                self.arguments(&filter.args, "");
            }
            Expr::Test(test) => {
                self.expression(&test.expr, FILTERED);
                self.put(" is ");
                self.put(test.name);
                self.arguments(&test.args, "");
            }
        }
    }

    fn literal(&mut self, expr: &Expr) {
        let is_constant = |item: &Expr| matches!(item, Expr::Const(_));
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
        self.put(if is_plain { "" } else { "|__new" });
    }

    fn binary(&mut self, op: BinOpKind, left: &Expr, right: &Expr) {
        let (operator, level) = match op {
            BinOpKind::ScOr => (" or ", OR),
            BinOpKind::ScAnd => (" and ", AND),
            BinOpKind::Sub => (" - ", FILTERED),
            BinOpKind::Div => (" / ", FILTERED),
            BinOpKind::FloorDiv => (" // ", FILTERED),
            BinOpKind::Rem => (" % ", FILTERED),
            BinOpKind::Pow => (" ** ", FILTERED),
            BinOpKind::Add => return self.filtered(left, "add", right),
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

fn binding(expr: &Expr) -> u8 {
    match expr {
        Expr::IfExpr(_) => CONDITION,
        Expr::UnaryOp(unary) => match unary.op {
            UnaryOpKind::Not => NOT,
            UnaryOpKind::Neg => MATHS,
        },
        Expr::BinOp(binary) => match binary.op {
            BinOpKind::ScOr => OR,
            BinOpKind::ScAnd => AND,
            BinOpKind::Sub
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow => MATHS,
            _ => FILTERED,
        },
        Expr::Compare(_) => AND,
        Expr::Slice(_) | Expr::Filter(_) | Expr::Test(_) => FILTERED,
        Expr::List(list) => match list.items.iter().all(|item| matches!(item, Expr::Const(_))) {
            true => PRIMARY,
            false => FILTERED,
        },
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
