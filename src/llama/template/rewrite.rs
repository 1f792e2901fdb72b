//! A template with every operation that can make a value large, or take long, sent through `budget`.
//!
//! Called once at load. minijinja counts instructions but not what one does: `+`, `~`, `*`, comparisons and
//! slices are its own, so they are written anew as filters, whose names no template can take. What the
//! template means is not changed; each statement stays on its line, for errors.

use std::collections::HashMap;

use minijinja::machinery::ast::{Expr, IfCond, Macro, Stmt};
use minijinja::machinery::{Token, WhitespaceConfig, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind};

use super::expressions::{CONDITION, FILTERED, OR};
use super::writer::{Lenient, Names, Rewriter};

/// Tokens of one tag: minijinja's parser and compiler recurse for each.
const MAX_TAG_TOKENS: usize = 2048;

/// `elif`s of a template: its parser recurses for each.
const MAX_ELIFS: usize = 512;

/// The template as text that means the same, and what it calls.
pub(super) fn rewritten(source: &str) -> Result<(String, Names), Error> {
    let spaces = WhitespaceConfig {
        keep_trailing_newline: false,
        lstrip_blocks: true,
        trim_blocks: true,
    };
    let macros = check_tags(source, spaces)?;
    let template = parse(source, "chat", SyntaxConfig, spaces)?;
    let mut writer = Rewriter {
        out: String::with_capacity(source.len() * 2),
        line: 1,
        problem: None,
        source: source.to_owned(),
        macros,
        names: Names::default(),
    };
    writer.statement(&template);
    match writer.problem {
        Some(problem) => Err(Error::new(ErrorKind::SyntaxError, problem)),
        None => Ok((writer.out, writer.names)),
    }
}

/// Refuses tags that are too large; the macros that look at `varargs` or `kwargs`.
fn check_tags(source: &str, spaces: WhitespaceConfig) -> Result<HashMap<String, Lenient>, Error> {
    let (mut n_tokens, mut n_elifs) = (0, 0);
    let mut macros = Macros::default();
    for token in tokenize(source, false, SyntaxConfig, spaces) {
        let token = token?.0;
        match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => n_tokens = 0,
            Token::Ident("elif") => n_elifs += 1,
            _ => n_tokens += 1,
        }
        let limit = |what| Err(Error::new(ErrorKind::SyntaxError, what));
        if n_tokens > MAX_TAG_TOKENS {
            return limit(format!("a tag has more than {MAX_TAG_TOKENS} tokens"));
        }
        if n_elifs > MAX_ELIFS {
            return limit(format!("more than {MAX_ELIFS} elif"));
        }
        macros.see(&token);
    }
    let mut found = macros.found;
    found.retain(|_, each| each.is_lenient);
    Ok(found)
}

/// The macros of a template, gathered from its tokens: calls may come before what they call.
#[derive(Default)]
struct Macros {
    found: HashMap<String, Lenient>,
    /// The macros around the token, and how many brackets are open in the head of the last.
    open: Vec<String>,
    is_tag_start: bool,
    /// Whether the name comes next.
    is_named: bool,
    head: Option<usize>,
    /// Whether a parameter may come next.
    is_parameter: bool,
}

impl Macros {
    fn see(&mut self, token: &Token) {
        let is_tag_start = std::mem::replace(&mut self.is_tag_start, false);
        let is_named = std::mem::replace(&mut self.is_named, false);
        let is_parameter = std::mem::replace(&mut self.is_parameter, false);
        match token {
            Token::BlockStart => self.is_tag_start = true,
            Token::BlockEnd => self.head = None,
            Token::Ident("macro") if is_tag_start => self.is_named = true,
            Token::Ident("endmacro") if is_tag_start => drop(self.open.pop()),
            Token::Ident(name) if is_named => {
                self.found.insert((*name).to_owned(), Lenient::default());
                self.open.push((*name).to_owned());
                self.head = Some(0);
            }
            Token::Ident(name) => {
                if let Some(each) = self.open.last().and_then(|name| self.found.get_mut(name)) {
                    match (self.head, is_parameter) {
                        (Some(1), true) => each.parameters.push((*name).to_owned()),
                        _ => each.is_lenient |= matches!(*name, "varargs" | "kwargs"),
                    }
                }
            }
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                self.head = self.head.map(|depth| depth + 1);
                self.is_parameter = self.head == Some(1);
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                self.head = self.head.map(|depth| depth.saturating_sub(1));
            }
            Token::Comma => self.is_parameter = self.head == Some(1),
            _ => {}
        }
    }
}

impl Rewriter {
    /// Opens a tag, on the line where it was.
    fn open(&mut self, tag: &str, line: u16) {
        self.put(tag);
        while self.line < usize::from(line) {
            self.put("\n");
            self.line += 1;
        }
    }

    fn statements(&mut self, statements: &[Stmt]) {
        statements
            .iter()
            .for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt) {
        if self.problem.is_some() {
            return;
        }
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => {
                self.open("{{ ", emit.span().start_line);
                self.expression(&emit.expr, CONDITION);
                self.put(" }}");
            }
            Stmt::EmitRaw(raw) => {
                self.open("{{ ", raw.span().start_line);
                self.text(raw.raw);
                self.put(" }}");
            }
            Stmt::ForLoop(each) => {
                self.open("{% ", each.span().start_line);
                self.put("for ");
                self.target(&each.target);
                self.put(" in ");
                self.expression(&each.iter, FILTERED);
                self.put("|__iter");
                if let Some(filter) = &each.filter_expr {
                    self.put(" if ");
                    self.expression(filter, OR);
                }
                self.put(if each.recursive {
                    " recursive %}"
                } else {
                    " %}"
                });
                self.statements(&each.body);
                if !each.else_body.is_empty() {
                    self.put("{% else %}");
                    self.statements(&each.else_body);
                }
                self.put("{% endfor %}");
            }
            Stmt::IfCond(condition) => {
                self.open("{% ", condition.span().start_line);
                self.put("if ");
                self.branches(condition);
                self.put("{% endif %}");
            }
            Stmt::Set(set) => {
                self.open("{% ", set.span().start_line);
                self.put("set ");
                self.target(&set.target);
                self.put(" = ");
                match set.target {
                    Expr::Var(_) => self.expression(&set.expr, CONDITION),
                    _ => {
                        self.expression(&set.expr, FILTERED);
                        self.put("|__keep");
                    }
                }
                self.put(" %}");
            }
            Stmt::Do(call) => {
                self.open("{% ", call.span().start_line);
                self.put("do ");
                self.call(&call.call.expr, &call.call.args);
                self.put(" %}");
            }
            Stmt::Continue(_) => self.put("{% continue %}"),
            Stmt::Break(_) => self.put("{% break %}"),
            _ => self.block(statement),
        }
    }

    /// What follows `if`, up to its end.
    fn branches(&mut self, condition: &IfCond) {
        self.expression(&condition.expr, OR);
        self.put(" %}");
        self.statements(&condition.true_body);
        match &condition.false_body[..] {
            [] => {}
            [Stmt::IfCond(next)] => {
                self.open("{% ", next.span().start_line);
                self.put("elif ");
                self.branches(next);
            }
            body => {
                self.put("{% else %}");
                self.statements(body);
            }
        }
    }

    /// The statements that are rare.
    fn block(&mut self, statement: &Stmt) {
        match statement {
            Stmt::WithBlock(with) => {
                self.open("{% ", with.span().start_line);
                self.put("with ");
                for (index, (target, value)) in with.assignments.iter().enumerate() {
                    self.put(if index > 0 { ", " } else { "" });
                    self.target(target);
                    self.put(" = ");
                    self.expression(value, CONDITION);
                }
                self.put(" %}");
                self.statements(&with.body);
                self.put("{% endwith %}");
            }
            Stmt::SetBlock(set) => {
                self.open("{% ", set.span().start_line);
                self.put("set ");
                self.target(&set.target);
                if let Some(filter) = &set.filter {
                    self.put(" | ");
                    self.expression(filter, CONDITION);
                }
                self.put(" %}");
                self.statements(&set.body);
                self.put("{% endset %}");
            }
            Stmt::FilterBlock(filter) => {
                self.open("{% ", filter.span().start_line);
                self.put("filter ");
                self.expression(&filter.filter, CONDITION);
                self.put(" %}");
                self.statements(&filter.body);
                self.put("{% endfilter %}");
            }
            Stmt::AutoEscape(escape) => {
                self.open("{% ", escape.span().start_line);
                self.put("autoescape ");
                self.expression(&escape.enabled, CONDITION);
                self.put(" %}");
                self.statements(&escape.body);
                self.put("{% endautoescape %}");
            }
            Stmt::Block(block) => {
                self.open("{% ", block.span().start_line);
                self.put(&format!("block {} %}}", block.name));
                self.statements(&block.body);
                self.put("{% endblock %}");
            }
            Stmt::Include(include) => {
                self.open("{% ", include.span().start_line);
                self.put("include ");
                self.expression(&include.name, CONDITION);
                self.put(if include.ignore_missing {
                    " ignore missing %}"
                } else {
                    " %}"
                });
            }
            Stmt::Macro(each) => {
                self.open("{% ", each.span().start_line);
                self.put(&format!("macro {}(", each.name));
                self.macro_body(each);
                self.put("{% endmacro %}");
            }
            Stmt::CallBlock(call) => {
                self.open("{% ", call.span().start_line);
                self.put("call(");
                self.parameters(&call.macro_decl);
                self.put(") ");
                self.call(&call.call.expr, &call.call.args);
                self.put(" %}");
                self.statements(&call.macro_decl.body);
                self.put("{% endcall %}");
            }
            _ => self.refuse("there is no other template to import or to extend".to_owned()),
        }
    }

    fn macro_body(&mut self, each: &Macro) {
        self.parameters(each);
        if self.macros.contains_key(each.name) {
            self.put(if each.args.is_empty() { "" } else { ", " });
            self.put("varargs=[]|__tuple, kwargs={}");
        }
        self.put(") %}");
        self.statements(&each.body);
    }

    fn parameters(&mut self, each: &Macro) {
        let n_without = each.args.len() - each.defaults.len().min(each.args.len());
        for (index, parameter) in each.args.iter().enumerate() {
            self.put(if index > 0 { ", " } else { "" });
            self.target(parameter);
            if let Some(default) = index
                .checked_sub(n_without)
                .and_then(|at| each.defaults.get(at))
            {
                self.put(" = ");
                self.expression(default, CONDITION);
            }
        }
    }

    /// What is assigned to.
    fn target(&mut self, target: &Expr) {
        match target {
            Expr::Var(var) => self.put(var.id),
            Expr::GetAttr(attr) => {
                if attr.name.starts_with("__") {
                    self.refuse(format!("'{}' cannot be set", attr.name));
                }
                self.target(&attr.expr);
                self.put(&format!(".{}", attr.name));
            }
            Expr::List(list) => {
                self.put("(");
                for item in &list.items {
                    self.target(item);
                    self.put(", ");
                }
                self.put(")");
            }
            _ => self.refuse("something is assigned to that is no name".to_owned()),
        }
    }
}
